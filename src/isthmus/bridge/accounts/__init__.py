"""Who belongs to the network: sites, their Routers, and the invites that let them in."""
