"""What servers answer, protocol by protocol: one adapter a file, all behind `adapter.ProtocolAdapter`."""
