//! This node's ports at the router of its home: the router is asked to open them (PCP, RFC 6887; NAT-PMP, RFC 6886; UPnP
//! IGD), asked anew when the network is another one, and told at the end that they are no longer needed. What it answers is
//! a claim: `reachability` lets it count once others have dialled it.

use super::actor::Actor;
use crate::reachability::{Address, Transport};
use crate::wire::{AddressScope, is_global};
use futures::FutureExt;
use futures::future::{join_all, select_all};
use portmapper::{Client, Config, Protocol};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A router that gave nothing is asked again.
const AGAIN: Duration = Duration::from_secs(600);

/// Until a router has said what it understands; the crate waits for 1 s at most.
const PROBING: Duration = Duration::from_secs(2);

/// For giving ports back: nobody waits longer for a program's end.
const GIVING_BACK: Duration = Duration::from_millis(1_200);

/// What the router is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    tcp: Option<NonZeroU16>,
    quic: Option<NonZeroU16>,
    /// The addresses behind the router. Others mean another router.
    behind: BTreeSet<Ipv4Addr>,
}

impl Wanted {
    /// Nothing without an address that somebody must translate.
    fn of(own: &[Address]) -> Self {
        let translated = |address: &Address| match address.ip.to_canonical() {
            IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_link_local() && !is_global(v4.into()) => Some(v4),
            _ => None,
        };
        let port = |transport| {
            let of = |address: &&Address| address.transport == transport && translated(address).is_some();
            own.iter().filter(of).find_map(|address| NonZeroU16::new(address.port))
        };
        Self {
            tcp: port(Transport::Tcp),
            quic: port(Transport::Quic),
            behind: own.iter().filter_map(translated).collect(),
        }
    }

    fn ports(&self) -> impl Iterator<Item = (Transport, NonZeroU16)> {
        let tcp = self.tcp.map(|port| (Transport::Tcp, port));
        tcp.into_iter().chain(self.quic.map(|port| (Transport::Quic, port)))
    }
}

/// The task that asks. Gives everything back when it is stopped.
pub(super) struct PortMapping {
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

impl PortMapping {
    /// `None` where nobody outside would use the ports: under scope `any` addresses need not be global.
    /// Beside it: what is open.
    pub(super) fn start(enabled: bool, scope: AddressScope) -> (Option<Self>, watch::Receiver<Vec<Address>>) {
        let (wanted, asked) = watch::channel(Wanted::default());
        let (tell, opened) = watch::channel(Vec::new());
        let starts = enabled && scope == AddressScope::Global;
        (starts.then(|| Self { wanted, task: tokio::spawn(run(asked, tell)) }), opened)
    }

    /// Gives back what is open, from now on.
    pub(super) fn stop(self) -> Stopping {
        Stopping(self.task)
    }
}

/// The task, on its way to its end.
pub(super) struct Stopping(JoinHandle<()>);

impl Stopping {
    pub(super) async fn ended(self) {
        // What a router does not take back it closes itself when the time is over.
        let _ = timeout(GIVING_BACK, self.0).await;
    }
}

/// One port.
struct Port {
    transport: Transport,
    client: Client,
    news: watch::Receiver<Option<std::net::SocketAddrV4>>,
}

impl Port {
    fn external(&self) -> Option<Address> {
        let at = (*self.news.borrow())?;
        Some(Address { ip: (*at.ip()).into(), transport: self.transport, port: at.port() })
    }
}

/// What makes the task do something.
enum Why {
    OtherNetwork,
    News,
    Time,
    End,
}

async fn run(mut wanted: watch::Receiver<Wanted>, opened: watch::Sender<Vec<Address>>) {
    let mut ports: Vec<Port> = Vec::new();
    loop {
        match next(&mut wanted, &mut ports).await {
            // What the old router gave cannot be given back from here.
            Why::OtherNetwork => {
                let now = wanted.borrow_and_update().clone();
                ports = ask(&now).await;
            }
            Why::News => {}
            Why::Time => {
                ports.iter().filter(|port| port.external().is_none()).for_each(|port| port.client.procure_mapping());
            }
            Why::End => break,
        }
        let all: Vec<Address> = ports.iter().filter_map(Port::external).collect();
        opened.send_if_modified(|told| std::mem::replace(told, all.clone()) != all);
    }
    let given = ports.iter().filter(|port| port.external().is_some()).map(|port| {
        port.client.deactivate();
        // Answered after it was given back.
        port.client.probe()
    });
    join_all(given).await;
}

async fn next(wanted: &mut watch::Receiver<Wanted>, ports: &mut [Port]) -> Why {
    let news = ports.iter_mut().map(|port| port.news.changed().boxed());
    // Never empty, which it must not be.
    let news = select_all(news.chain([std::future::pending().boxed()]));
    tokio::select! {
        changed = wanted.changed() => if changed.is_ok() { Why::OtherNetwork } else { Why::End },
        _ = news => Why::News,
        () = tokio::time::sleep(AGAIN) => Why::Time,
    }
}

/// What the router understands is asked first: of UPnP alone a mapping is tried without knowing.
async fn ask(wanted: &Wanted) -> Vec<Port> {
    let port = |(transport, port)| async move {
        let protocol = if transport == Transport::Tcp { Protocol::Tcp } else { Protocol::Udp };
        let client = Client::new(Config { protocol, ..Config::default() });
        // A router that understands nothing is no error.
        let _ = timeout(PROBING, client.probe()).await;
        client.update_local_port(port);
        Port { transport, news: client.watch_external_address(), client }
    };
    join_all(wanted.ports().map(port)).await
}

impl Actor {
    /// These are the addresses of our interfaces.
    pub(super) fn wants_ports(&self, own: &[Address]) {
        if let Some(mapping) = &self.port_mapping {
            let wanted = Wanted::of(own);
            mapping.wanted.send_if_modified(|asked| std::mem::replace(asked, wanted.clone()) != wanted);
        }
    }

    /// The router opened ports, or closed them.
    pub(super) fn ports_opened(&mut self, now: Instant) {
        let opened = self.opened.borrow_and_update().clone();
        tracing::debug!(?opened, "ports that the router opened");
        self.reaching.picture.opened(&opened);
        self.upkeep.addresses_changed = true;
        self.reached_anew(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: &str, transport: Transport, port: u16) -> Address {
        Address { ip: ip.parse().unwrap(), transport, port }
    }

    #[test]
    fn asks_for_what_a_router_translates() {
        use Transport::{Quic, Tcp};
        let own = [
            at("127.0.0.1", Tcp, 9),
            at("169.254.7.7", Tcp, 9),
            at("8.8.8.8", Tcp, 9),
            at("2a00:1::1", Quic, 9),
            at("192.168.1.10", Quic, 4001),
            at("192.168.1.10", Tcp, 4001),
            at("10.0.0.7", Tcp, 4002),
        ];
        let wanted = Wanted::of(&own);
        assert_eq!(wanted.ports().map(|(t, p)| (t, p.get())).collect::<Vec<_>>(), [(Tcp, 4001), (Quic, 4001)]);
        assert_eq!(wanted.behind.len(), 2);
        assert_eq!(Wanted::of(&own[..4]), Wanted::default());
    }
}
