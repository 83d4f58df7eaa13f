"""Ops, subnets and search spaces as plain data."""
