"""What travels between leveret's services: names, messages, their codec, and transports."""
