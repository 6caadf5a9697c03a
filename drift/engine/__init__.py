"""Asking models and servers: the service for methods, data sets and evaluations, and the client for endpoints."""
