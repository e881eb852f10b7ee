//! A node: all machines started, joined and stopped together.
