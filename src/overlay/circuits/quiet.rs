//! The relay client's transport, without what relays say of themselves: a reservation's answer brings a list of addresses
//! at which we could be reached, and the swarm would tell it to every peer. Where this node is reached it knows better: at
//! the address at which it dialled the relay.

use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::relay::client::Transport as Client;
use libp2p::{Multiaddr, Transport};
use std::pin::Pin;
use std::task::{Context, Poll};

pub(in crate::overlay) struct Quiet(pub(in crate::overlay) Client);

impl Transport for Quiet {
    type Output = <Client as Transport>::Output;
    type Error = <Client as Transport>::Error;
    type ListenerUpgrade = <Client as Transport>::ListenerUpgrade;
    type Dial = <Client as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.0.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<Self::Error>> {
        self.0.dial(address, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        loop {
            match Pin::new(&mut self.0).poll(cx) {
                Poll::Ready(TransportEvent::NewAddress { .. } | TransportEvent::AddressExpired { .. }) => {}
                other => return other,
            }
        }
    }
}
