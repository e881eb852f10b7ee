//! A TCP proxy between two nodes: remembers every byte, and can stall or cut what it carries.

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the proxy does with the connections it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Carry,
    /// Keeps connections, carries nothing, takes none.
    Stall,
}

pub struct Proxy {
    pub address: Multiaddr,
    pub tape: Arc<Mutex<Vec<u8>>>,
    /// Connections carried so far.
    pub carried: Arc<AtomicUsize>,
    mode: watch::Sender<Mode>,
    /// Counts up: connections older than this are cut.
    cut: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: &Multiaddr) -> Self {
        let target = socket_of(target);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port()).parse().unwrap();
        let tape = Arc::new(Mutex::new(Vec::new()));
        let (mode, modes) = watch::channel(Mode::Carry);
        let (cut, cuts) = watch::channel(0);
        let carried = Arc::new(AtomicUsize::new(0));
        let (recorder, counter) = (tape.clone(), carried.clone());
        let task = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                if *modes.borrow() == Mode::Stall {
                    continue;
                }
                let Ok(to) = TcpStream::connect(target).await else { continue };
                counter.fetch_add(1, Ordering::Relaxed);
                let (from_read, from_write) = from.into_split();
                let (to_read, to_write) = to.into_split();
                for (read, write) in [(from_read, to_write), (to_read, from_write)] {
                    let mut cuts = cuts.clone();
                    cuts.mark_unchanged();
                    let carry = carry(read, write, recorder.clone(), modes.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = carry => {}
                            _ = cuts.changed() => {}
                        }
                    });
                }
            }
        });
        Self { address, tape, carried, mode, cut, task }
    }

    /// Drops every connection that is carried now; new ones are welcome.
    pub fn cut(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut read: tokio::net::tcp::OwnedReadHalf,
    mut write: tokio::net::tcp::OwnedWriteHalf,
    tape: Arc<Mutex<Vec<u8>>>,
    mut modes: watch::Receiver<Mode>,
) {
    let mut buffer = [0; 8192];
    while let Ok(n) = read.read(&mut buffer).await {
        let _ = modes.wait_for(|mode| *mode == Mode::Carry).await;
        if n == 0 || write.write_all(&buffer[..n]).await.is_err() {
            break;
        }
        tape.lock().unwrap().extend_from_slice(&buffer[..n]);
    }
}

fn socket_of(address: &Multiaddr) -> SocketAddr {
    let mut parts = address.iter();
    match (parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) => SocketAddr::new(ip.into(), port),
        other => panic!("{other:?}"),
    }
}
