//! Nodes that end without a word: killed, or standing still.

use super::harness::{Node, Setup, node};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// A node with a runtime of its own.
pub(super) struct Mortal {
    pub(super) node: Node,
    life: Option<Runtime>,
    /// Dropping it lets a frozen node go on.
    thaw: Option<std::sync::mpsc::Sender<()>>,
}

impl Mortal {
    pub(super) async fn start(bootstrap: Vec<String>, setup: Setup) -> Self {
        let life = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let node = life.spawn(async move { node(&bootstrap, setup).await }).await.unwrap();
        Self { node, life: Some(life), thaw: None }
    }

    pub(super) async fn kill(mut self) {
        let mut status = self.node.overlay.status();
        self.life.take().unwrap().shutdown_background();
        // Until the actor is gone; its handle is kept that long, or it would stop in good order.
        while timeout(Duration::from_secs(5), status.changed()).await.expect("dies").is_ok() {}
    }

    /// Its only thread stands still until it is dropped: ports stay taken, and connections look open.
    pub(super) async fn freeze(&mut self) {
        let (thaw, wait) = std::sync::mpsc::channel::<()>();
        let (frozen, is_frozen) = tokio::sync::oneshot::channel();
        self.life.as_ref().unwrap().spawn(async move {
            frozen.send(()).unwrap();
            // Stands until the sender is dropped.
            let _ = wait.recv();
        });
        is_frozen.await.unwrap();
        self.thaw = Some(thaw);
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.thaw.take();
        if let Some(life) = self.life.take() {
            life.shutdown_background();
        }
    }
}
