"""Features of a feature store, put into requests before a variant is chosen: for routes that name a store."""
