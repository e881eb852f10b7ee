//! One TCP connection: a task that frames what comes in and writes what goes out. Everything it holds is bounded; a peer
//! that does not read is dropped, one that sends half a message is given 30 s.

use crate::sip::flow::Flow;
use crate::sip::guard::{Framed, Framer, Refused};
use bytes::Bytes;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Messages waiting for a peer to read; a phone needs a handful.
const OUTGOING: usize = 64;
/// To begin with a message, or to finish a begun one.
const UNFINISHED: Duration = Duration::from_secs(30);
/// Longer than an hour's registration: a phone that refreshes keeps its connection.
const IDLE: Duration = Duration::from_secs(3_900);
const WRITE: Duration = Duration::from_secs(10);

/// From the task to the actor.
#[derive(Debug)]
pub(super) enum FromStream {
    Message {
        connection: u64,
        flow: Flow,
        bytes: Bytes,
    },
    /// No message boundary can be found any more.
    Broken {
        connection: u64,
        flow: Flow,
        bytes: Bytes,
        refused: Refused,
    },
    Closed {
        connection: u64,
    },
}

/// The actor's end. Dropping it closes the connection after what is queued has been written.
#[derive(Debug)]
pub(super) struct Stream {
    outgoing: mpsc::Sender<Bytes>,
}

impl Stream {
    /// `false` when the peer does not keep up.
    pub(super) fn send(&self, bytes: Bytes) -> bool {
        self.outgoing.try_send(bytes).is_ok()
    }
}

/// The handle and the task to spawn.
pub(super) fn serve(
    socket: TcpStream,
    connection: u64,
    flow: Flow,
    up: mpsc::Sender<FromStream>,
) -> (Stream, impl Future<Output = ()> + Send + 'static) {
    let (outgoing, messages) = mpsc::channel(OUTGOING);
    let task = async move {
        run(socket, connection, flow, &up, messages).await;
        // The actor may be gone first.
        let _ = up.send(FromStream::Closed { connection }).await;
    };
    (Stream { outgoing }, task)
}

async fn run(
    mut socket: TcpStream,
    connection: u64,
    flow: Flow,
    up: &mpsc::Sender<FromStream>,
    mut messages: mpsc::Receiver<Bytes>,
) {
    let _ = socket.set_nodelay(true);
    let mut framer = Framer::default();
    let mut buffer = vec![0; 16_384];
    let mut broken = false;
    let mut deadline = Instant::now() + UNFINISHED;
    loop {
        tokio::select! {
            outgoing = messages.recv() => {
                let Some(bytes) = outgoing else { break };
                if !write(&mut socket, &bytes).await {
                    return;
                }
            }
            read = socket.read(&mut buffer), if !broken => {
                let Ok(count @ 1..) = read else { return };
                framer.push(&buffer[..count]);
                loop {
                    match framer.poll() {
                        Ok(Some(Framed::Ping)) => {
                            if !write(&mut socket, b"\r\n").await {
                                return;
                            }
                            deadline = Instant::now() + IDLE;
                        }
                        Ok(Some(Framed::Message(bytes))) => {
                            if up.send(FromStream::Message { connection, flow, bytes }).await.is_err() {
                                return;
                            }
                            deadline = Instant::now() + IDLE;
                        }
                        Ok(None) => break,
                        Err((refused, bytes)) => {
                            // The actor answers if it can, then closes.
                            broken = true;
                            if up.send(FromStream::Broken { connection, flow, bytes, refused }).await.is_err() {
                                return;
                            }
                            break;
                        }
                    }
                }
                if framer.is_unfinished() {
                    deadline = deadline.min(Instant::now() + UNFINISHED);
                }
            }
            () = tokio::time::sleep_until(deadline) => return,
        }
    }
    let _ = timeout(WRITE, socket.shutdown()).await;
}

async fn write(socket: &mut TcpStream, bytes: &[u8]) -> bool {
    matches!(timeout(WRITE, socket.write_all(bytes)).await, Ok(Ok(())))
}
