"""Devices at the end of a link: transports, runners, and models as their runtimes want them."""
