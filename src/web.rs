//! The local API: status, health and metrics on loopback.
