//! What this node itself saw others do: counted facts, bounded.
