"""The admin listener: the HTTP API over the control plane, its event stream, metrics and health."""
