//! Logs and metrics as values: `Private` keeps people out of logs, `Metrics` is the one registry.

use std::fmt;

/// Hides numbers, URIs and addresses in logs above DEBUG.
pub struct Private<T>(pub T);

impl<T> fmt::Display for Private<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(private)")
    }
}
impl<T> fmt::Debug for Private<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(private)")
    }
}

/// The process's metrics registry, handed to each machine at start. Cloneable; all clones write to the same registry.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: std::sync::Arc<std::sync::Mutex<prometheus_client::registry::Registry>>,
}

impl Metrics {
    /// Registers metrics under `prefix` (`peerline_<prefix>_...`). Called once per machine, at start.
    pub fn register(&self, prefix: &str, with: impl FnOnce(&mut prometheus_client::registry::Registry)) {
        let mut registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        with(registry.sub_registry_with_prefix(format!("peerline_{prefix}")));
    }

    /// The registry in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut text = String::new();
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}
