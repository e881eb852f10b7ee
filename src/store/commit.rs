//! Group commit: callers that overlap share one flush, and no flush runs on the async threads.

use super::engine::{Engine, EngineResult};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

pub(super) struct Committer {
    engine: Arc<dyn Engine>,
    queue: Mutex<Queue>,
}

/// The waiters are as many as there are callers inside `commit`, which bounds them.
#[derive(Default)]
struct Queue {
    waiting: Vec<oneshot::Sender<EngineResult<()>>>,
    running: bool,
}

impl Committer {
    pub(super) fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, queue: Mutex::default() }
    }

    /// Waits for a flush that began after this call did.
    pub(super) async fn commit(self: &Arc<Self>) -> EngineResult<()> {
        let (done, answer) = oneshot::channel();
        let start = {
            let mut queue = self.queue();
            queue.waiting.push(done);
            !std::mem::replace(&mut queue.running, true)
        };
        if start {
            let this = self.clone();
            tokio::task::spawn_blocking(move || this.run());
        }
        answer.await.unwrap_or_else(|_| Err("the process is stopping".into()))
    }

    /// Flushes for everybody who came before, again and again until nobody waits.
    fn run(&self) {
        loop {
            let served = {
                let mut queue = self.queue();
                if queue.waiting.is_empty() {
                    queue.running = false;
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            let result = catch_unwind(AssertUnwindSafe(|| self.engine.flush()))
                .unwrap_or_else(|_| Err("the database failed an assertion".into()));
            for waiter in served {
                // A caller that was dropped does not want to know.
                let _ = waiter.send(result.clone());
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
