"""What two Routers say to each other in a live session, and what each then does to its device. No I/O.

The PDUs of both devices travel in two streams of bytes, unchanged. Beside them each Router tells the other how its
device's association ended (`ending`). `Side` joins one device's upper layer to the far Router.
"""
