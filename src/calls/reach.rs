//! The way to a device: where its binding says it is, and, when that takes long or fails, where a fresh binding says.
//! A binding in the cache may be a minute old, and its device restarted on another port since.

use crate::identity::NodeKey;
use crate::locator::{Located, Locator};
use crate::overlay::{LinkError, LinkId, Overlay};
use crate::record::VerifiedDevice;
use crate::uri::IdHash;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the known addresses are tried alone. Most connections are up by then.
pub(super) const PATIENCE: Duration = Duration::from_millis(400);

/// How long a failed connection waits for better news.
const NEWS: Duration = Duration::from_secs(3);

/// How long a device may take to be connected.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(20);

type Addresses = Vec<Vec<u8>>;

/// What a way is looked for with.
#[derive(Clone)]
pub(super) struct Way {
    pub overlay: Overlay,
    pub locator: Locator,
    pub local: IdHash,
    pub remote: IdHash,
}

impl Way {
    /// Connects to `device`.
    ///
    /// # Errors
    /// Why not, of the last attempt.
    pub(super) async fn to(&self, device: VerifiedDevice) -> Result<LinkId, LinkError> {
        let VerifiedDevice { node, addresses, .. } = device;
        reach(node, addresses, |addresses| self.connect(node, addresses), || self.afresh()).await
    }

    /// Tells the overlay where else a device may be that is linked and does not answer: the link may be a dead one.
    pub(super) async fn look_again(&self, node: NodeKey) {
        let mut located = self.afresh();
        while let Some(addresses) = next_addresses(&mut located, node).await {
            // The link is there: this only says where to look for its other end.
            let _ = self.connect(node, addresses).await;
        }
    }

    async fn connect(&self, node: NodeKey, addresses: Addresses) -> Result<LinkId, LinkError> {
        self.overlay.connect(self.local, self.remote, node, addresses, CONNECT_DEADLINE).await
    }

    /// A lookup in the overlay, whatever the cache holds.
    fn afresh(&self) -> mpsc::Receiver<Located> {
        self.locator.forget(self.remote);
        self.locator.locate(self.remote)
    }
}

async fn reach<F>(
    node: NodeKey,
    addresses: Addresses,
    connect: impl Fn(Addresses) -> F,
    afresh: impl FnOnce() -> mpsc::Receiver<Located>,
) -> Result<LinkId, LinkError>
where
    F: Future<Output = Result<LinkId, LinkError>>,
{
    let mut attempts = FuturesUnordered::new();
    attempts.push(connect(addresses.clone()));
    let mut error = match tokio::time::timeout(PATIENCE, attempts.next()).await {
        Ok(Some(Ok(link))) => return Ok(link),
        // Another address would be refused as well.
        Ok(Some(Err(error @ (LinkError::Refused(_) | LinkError::NotProven(_) | LinkError::Stopped)))) => {
            return Err(error);
        }
        Ok(Some(Err(error))) => error,
        Ok(None) | Err(_) => LinkError::Unreachable,
    };
    let mut located = afresh();
    let mut tried = vec![addresses];
    let too_late = tokio::time::sleep(NEWS);
    tokio::pin!(too_late);
    let mut news = true;
    while news || !attempts.is_empty() {
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(link) => return Ok(link),
                Err(why) => error = why,
            },
            found = next_addresses(&mut located, node), if news => match found {
                Some(addresses) if !tried.contains(&addresses) => {
                    tried.push(addresses.clone());
                    attempts.push(connect(addresses));
                }
                Some(_) => {}
                None => news = false,
            },
            () = &mut too_late, if news => news = false,
        }
    }
    Err(error)
}

/// The addresses of `node` in the next binding that has any; `None` when no more come. Cancel safe.
async fn next_addresses(located: &mut mpsc::Receiver<Located>, node: NodeKey) -> Option<Addresses> {
    loop {
        match located.recv().await? {
            Located::Binding { binding, .. } => {
                if let Some(device) = binding.devices.into_iter().find(|device| device.node == node) {
                    return Some(device.addresses);
                }
            }
            Located::Done(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::locator::LocateError;
    use crate::record::{Pin, VerifiedBinding};
    use std::cell::RefCell;

    const NODE: NodeKey = NodeKey([1; 32]);
    fn at(address: &str) -> Addresses {
        vec![address.as_bytes().to_vec()]
    }

    fn binding(node: NodeKey, address: &str) -> Located {
        let device = VerifiedDevice {
            node,
            sequence: 1,
            priority: 1,
            addresses: at(address),
            expires_at: UnixMillis(0),
            dnd: false,
        };
        let binding = VerifiedBinding { id: IdHash([1; 22]), pin: Pin::default(), devices: vec![device] };
        Located::Binding { binding, from_cache: false }
    }

    /// Reaches a device whose binding in the cache says "old", while the overlay has `news`. `None` of an address: it
    /// never answers. Returns the result and the addresses that were tried.
    async fn try_out(
        says: impl Fn(&str) -> Option<Result<LinkId, LinkError>>,
        news: Vec<Located>,
    ) -> (Result<LinkId, LinkError>, Vec<String>) {
        let tried = RefCell::new(Vec::new());
        let connect = |addresses: Addresses| {
            let address = String::from_utf8(addresses[0].clone()).unwrap();
            let said = says(&address);
            tried.borrow_mut().push(address);
            async move {
                match said {
                    Some(result) => result,
                    None => std::future::pending().await,
                }
            }
        };
        let afresh = || {
            let (found, located) = mpsc::channel(8);
            for event in news {
                found.try_send(event).unwrap();
            }
            found.try_send(Located::Done(Err(LocateError::Timeout))).unwrap();
            located
        };
        let result = reach(NODE, at("old"), connect, afresh).await;
        (result, tried.into_inner())
    }

    fn news() -> Vec<Located> {
        vec![binding(NodeKey([2; 32]), "other"), binding(NODE, "old"), binding(NODE, "new")]
    }

    #[tokio::test]
    async fn asks_nobody_while_the_known_address_answers() {
        let (result, tried) = try_out(|_| Some(Ok(LinkId(1))), news()).await;
        assert!(result.is_ok());
        assert_eq!(tried, ["old"]);
    }

    #[tokio::test]
    async fn goes_where_a_fresh_binding_says() {
        for refuses in [true, false] {
            let old = || refuses.then_some(Err(LinkError::Unreachable));
            let says = |address: &str| if address == "new" { Some(Ok(LinkId(1))) } else { old() };
            let (result, tried) = try_out(says, news()).await;
            assert!(result.is_ok());
            assert_eq!(tried, ["old", "new"]);
        }
    }

    #[tokio::test]
    async fn without_news_it_fails() {
        let (result, tried) = try_out(|_| Some(Err(LinkError::Unreachable)), vec![binding(NODE, "old")]).await;
        assert!(matches!(result, Err(LinkError::Unreachable)));
        assert_eq!(tried, ["old"]);
        let (result, tried) = try_out(|_| Some(Err(LinkError::Refused("no such user".into()))), news()).await;
        assert!(matches!(result, Err(LinkError::Refused(_))), "another address would not help");
        assert_eq!(tried, ["old"]);
    }
}
