"""Batches, requests, report rows and payments; of the package it imports only ``errors``."""
