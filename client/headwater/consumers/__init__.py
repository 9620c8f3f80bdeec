"""Consumers as services: loops that work on a consumer group until they are cancelled.

Only what calls a handler for each delivery. Memberships and deliveries are in `groups`.
"""
