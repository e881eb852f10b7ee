//! The way bytes leave and come: TCP with Noise and yamux, and QUIC, with names resolved, all of it counted.

use super::circuits::{Paced, Quiet};
use super::dialling::{Dialling, Guarded};
use super::meter::Traffic;
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent};
use libp2p::core::transport::{Boxed, OrTransport};
use libp2p::core::upgrade::{NegotiationError, Version};
use libp2p::{PeerId, Transport, dns, identity::Keypair, noise, quic, relay, tcp, yamux};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// From the first packet to an authenticated connection. Half of libp2p's default: a dead address costs a query this
/// long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The same through a relay: it connects there first, and the far end may be slow to accept.
const CIRCUIT_TIMEOUT: Duration = Duration::from_secs(10);

/// QUIC flow control windows, bytes. A bundle is 12 KiB and a frame 64 KiB; the defaults are 10 and 15 MB, which one
/// peer could make us hold (PITFALLS 20).
const QUIC_STREAM_WINDOW: u32 = 256 * 1024;
const QUIC_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Streams that a peer may have open at once on QUIC and on yamux.
const MAX_STREAMS: u32 = 64;

/// UDP mappings of home routers live 30 s and more; the default of 5 s is most of an idle node's traffic.
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(15);
const QUIC_IDLE_MS: u32 = 40_000;

type Connection = (PeerId, StreamMuxerBox);

/// Why no transport could be built: words of the library.
pub(super) type BuildError = Box<dyn std::error::Error + Send + Sync>;

/// Builds the transport of a node.
///
/// # Errors
/// When Noise cannot be set up with the key.
pub(super) fn build(key: &Keypair, traffic: &Traffic, rules: &Dialling) -> Result<Boxed<Connection>, BuildError> {
    let guarded = || Ok::<_, BuildError>(Guarded::new(stack(key)?, rules.clone()));
    let named = match dns::tokio::Transport::system(guarded()?) {
        Ok(named) => named.boxed(),
        Err(error) => {
            // A machine without a resolver still has addresses.
            tracing::debug!(%error, "no name resolution: bootstrap nodes given by name are out of reach");
            guarded()?.boxed()
        }
    };
    let traffic = traffic.clone();
    Ok(named
        .map(move |(peer, muxer), _| (peer, StreamMuxerBox::new(Counted { inner: muxer, traffic: traffic.clone() })))
        .boxed())
}

/// As [`build`], and circuits through other nodes. What travels on those is counted where it leaves: on the connection to
/// the relay.
///
/// # Errors
/// As [`build`].
pub(super) fn build_with_circuits(
    key: &Keypair,
    traffic: &Traffic,
    rules: &Dialling,
) -> Result<(Boxed<Connection>, relay::client::Behaviour), BuildError> {
    let (client, behaviour) = relay::client::new(key.public().to_peer_id());
    let circuits = Quiet(client)
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(multiplexer())
        .timeout(CIRCUIT_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let direct = build(key, traffic, rules)?;
    Ok((OrTransport::new(circuits, direct).map(|either, _| either.into_inner()).boxed(), behaviour))
}

/// Whether a stream failed because the far end does not know its protocol. Names go out with the first bytes
/// (`Version::V1Lazy`), so it is heard when the answer is read.
pub(super) fn is_not_spoken(error: &io::Error) -> bool {
    let negotiation = error.get_ref().and_then(|inner| inner.downcast_ref::<NegotiationError>());
    matches!(negotiation, Some(NegotiationError::Failed))
}

fn multiplexer() -> yamux::Config {
    let mut mux = yamux::Config::default();
    mux.set_max_num_streams(MAX_STREAMS as usize);
    mux
}

fn stack(key: &Keypair) -> Result<Boxed<Connection>, BuildError> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(multiplexer())
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let mut settings = quic::Config::new(key);
    settings.handshake_timeout = HANDSHAKE_TIMEOUT;
    settings.max_stream_data = QUIC_STREAM_WINDOW;
    settings.max_connection_data = QUIC_CONNECTION_WINDOW;
    settings.max_concurrent_stream_limit = MAX_STREAMS;
    settings.keep_alive_interval = QUIC_KEEP_ALIVE;
    settings.max_idle_timeout = QUIC_IDLE_MS;
    let quic = quic::tokio::Transport::new(settings).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    Ok(OrTransport::new(quic, tcp).map(|either, _| either.into_inner()).boxed())
}

/// Counts what streams carry: the bytes above encryption and multiplexing.
struct Counted<T> {
    inner: T,
    traffic: Traffic,
}

impl<T> StreamMuxer for Counted<T>
where
    T: StreamMuxer + Unpin,
    T::Substream: Unpin,
{
    type Substream = Counted<Paced<T::Substream>>;
    type Error = T::Error;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        let this = self.get_mut();
        let traffic = this.traffic.clone();
        Pin::new(&mut this.inner).poll_inbound(cx).map_ok(|inner| Counted { inner: Paced::theirs(inner), traffic })
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        let this = self.get_mut();
        let traffic = this.traffic.clone();
        Pin::new(&mut this.inner).poll_outbound(cx).map_ok(|inner| Counted { inner: Paced::ours(inner), traffic })
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.get_mut().inner).poll(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        Pin::new(&mut this.inner).poll_read(cx, buf).map_ok(|n| this.traffic.came(n))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        Pin::new(&mut this.inner).poll_write(cx, buf).map_ok(|n| this.traffic.went(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx)
    }
}
