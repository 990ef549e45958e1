"""MQTT as a signalling service of Isthmus: `mqtt://HOST` and `mqtts://HOST`."""

from isthmus_mqtt.provider import MqttProvider

PROVIDER = MqttProvider()
