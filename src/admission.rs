//! Who may connect, store and serve: pure limits.
