"""Routes of the FastAPI application: control, health and model lists. No logic lives here."""
