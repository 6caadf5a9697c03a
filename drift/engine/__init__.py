"""Asking models and servers: the one service that methods, data sets and evaluations get, and the client for endpoints."""
