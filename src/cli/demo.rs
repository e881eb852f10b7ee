//! `demo`: a whole overlay on this machine. Ten nodes in one process, two of them with a user and a SIP account, one
//! real call from account to account through the overlay with a tone each way, measured at both ends. Then it stays up
//! for softphones, and leaves nothing behind.

use super::line::{Audio, Line};
use super::words::{Progress, StopRequest, print, print_json, say, say_bold, start_log};
use super::{Common, Outcome};
use crate::config::{Listen, Role, Serve, Settings};
use crate::gateway::{self, NewPhone, Owner};
use crate::media::audio::Source;
use crate::node::book::Book;
use crate::node::dir::{DataDir, random_hex};
use crate::node::run_file::RunInfo;
use crate::node::{Node, NodeConfig};
use crate::uri::IdHash;
use anyhow::Context;
use clap::Args;
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

const NODES: usize = 10;
/// The tones: far apart, neither a multiple of the other, both inside the band of G.711.
const ALICE_HZ: f32 = 440.0;
const BOB_HZ: f32 = 620.0;
/// Long enough for a clean second of tone at both ends.
const TALK: Duration = Duration::from_secs(3);
/// Joining and publishing take a second or two here; a slow machine gets more.
const READY: Duration = Duration::from_secs(30);
/// From INVITE to the end of the test call.
const CALL: Duration = Duration::from_secs(45);

#[derive(Args)]
pub(super) struct DemoArgs {
    /// End after the test call
    #[arg(long)]
    once: bool,
}

/// What was measured: the one JSON object of `demo --once --json`.
#[derive(Debug, Serialize)]
struct Measured {
    nodes: usize,
    lookup_ms: Option<u64>,
    ring_ms: Option<u64>,
    voice_ms: Option<u64>,
    path: String,
    tones_ok: bool,
}

/// One of the two people.
struct Person {
    user: IdHash,
    account: String,
    password: String,
    hertz: f32,
}

struct Demo {
    nodes: Vec<Node>,
    alice: Person,
    bob: Person,
    // Last: removed when the nodes are gone.
    _home: tempfile::TempDir,
}

pub(super) async fn demo(common: &Common, args: &DemoArgs) -> anyhow::Result<Outcome> {
    start_log(common.log.as_deref().unwrap_or("error"))?;
    let mut stop = StopRequest::listen()?;
    let mut demo = None;
    let run = async {
        let started = demo.insert(Demo::start(common.json).await?);
        let measured = started.test_call(common.json).await?;
        anyhow::Ok(measured)
    };
    let measured = tokio::select! {
        measured = run => Some(measured),
        () = stop.asked() => None,
    };
    let result = match measured {
        Some(Ok(measured)) => {
            show(common.json, &measured)?;
            if !args.once
                && let Some(demo) = &demo
            {
                demo.invite()?;
                stop.asked().await;
            }
            Ok(if measured.tones_ok { Outcome::Done } else { Outcome::No })
        }
        Some(Err(error)) => Err(error),
        None => Ok(Outcome::No),
    };
    if let Some(demo) = demo {
        demo.stop().await;
    }
    result
}

impl Demo {
    async fn start(quiet: bool) -> anyhow::Result<Self> {
        let mut progress = Progress::start("starting ten nodes on this machine", quiet);
        let home = tempfile::Builder::new().prefix("peerline-demo-").tempdir().context("a temporary directory")?;
        // A word of its own for each run: two demos never meet.
        let overlay = random_hex(8);
        let mut nodes: Vec<Node> = Vec::with_capacity(NODES);
        let mut people = Vec::new();
        for i in 0..NODES {
            let dir = DataDir::open(&home.path().join(format!("node-{i}")))?;
            // The two people sit on nodes that started last and know the first one only.
            let person = i + 2 >= NODES;
            if person {
                let (name, hertz) = if people.is_empty() { ("alice", ALICE_HZ) } else { ("bob", BOB_HZ) };
                people.push(new_person(&dir, name, hertz)?);
            }
            if i + 1 == NODES {
                introduce(&nodes[NODES - 2], &dir, &people)?;
            }
            let bootstrap = nodes.first().map(|first| first.info().listen.clone()).unwrap_or_default();
            let settings = settings(person, &overlay, bootstrap);
            nodes.push(Node::start(NodeConfig { dir, settings, temporary: true, passphrase: None }).await?);
            progress.update(&format!("{} of {NODES} nodes started", i + 1));
        }
        progress.update("the nodes are finding each other");
        timeout(READY, async {
            for node in &nodes {
                node.joined(1, |_| {}).await;
            }
        })
        .await
        .context("the nodes did not find each other")?;
        progress.end(&format!("an overlay of {NODES} nodes is up"));
        let bob = people.pop().context("two people")?;
        let alice = people.pop().context("two people")?;
        Ok(Self { nodes, alice, bob, _home: home })
    }

    /// Alice calls Bob by his address; each sends a tone and listens for the other's.
    async fn test_call(&self, quiet: bool) -> anyhow::Result<Measured> {
        let (alice_node, bob_node) = (&self.nodes[NODES - 2], &self.nodes[NODES - 1]);
        let mut progress = Progress::start("registering a phone for alice and one for bob", quiet);
        let mut alice = self.alice.line(alice_node.info()).await?;
        let mut bob = self.bob.line(bob_node.info()).await?;
        progress.update("bob's binding is being published");
        published(bob_node, &self.bob.user).await?;
        progress.update("alice calls bob");
        let dialled = format!("sip:{}@{}", self.bob.user, alice_node.info().overlay);
        let talk = Audio { source: Source::Tone(self.alice.hertz), record: None, duration: Some(TALK) };
        let listen = Audio { source: Source::Tone(self.bob.hertz), record: None, duration: None };
        // A call that fails must not leave bob waiting for it.
        let (in_vain, given_up) = oneshot::channel::<()>();
        let calling = async {
            let called = alice.call(&dialled, &talk, std::future::pending()).await;
            let keep = called.as_ref().is_ok_and(|report| report.answered).then_some(in_vain);
            (called, keep)
        };
        let given_up = async {
            let _ = given_up.await;
        };
        let both = async { tokio::join!(calling, bob.answer(&listen, Duration::ZERO, given_up)) };
        let ((called, _keep), answered) = timed(both).await?;
        tokio::join!(alice.close(), bob.close());
        let at_alice = called?;
        anyhow::ensure!(at_alice.answered, "the test call failed: {} {}", at_alice.status, at_alice.words);
        let at_bob = answered?.context("bob's phone saw no call")?;
        progress.end("the call is over");
        let record = finished_call(alice_node).await;
        Ok(Measured {
            nodes: NODES,
            lookup_ms: record.as_ref().and_then(|r| r.lookup_ms),
            ring_ms: at_alice.ring_ms,
            voice_ms: at_alice.voice_ms,
            path: record.map_or_else(|| "unknown".to_owned(), |r| r.path),
            tones_ok: at_alice.heard_tone(self.bob.hertz) && at_bob.heard_tone(self.alice.hertz),
        })
    }

    /// Both accounts, for the reader's own softphones.
    fn invite(&self) -> anyhow::Result<()> {
        say_bold("The overlay stays up. Register any softphone with one of these accounts (transport UDP or TCP):");
        for (person, node) in [(&self.alice, &self.nodes[NODES - 2]), (&self.bob, &self.nodes[NODES - 1])] {
            let server = node.info().sip_udp.context("the demo's SIP address")?;
            print(&person.account);
            print(&format!("  server {server}  user {}  password {}", person.account, person.password));
            print(&format!("  number {}", person.user.grouped()));
            print(&format!("  sip:{}@{}", person.user, node.info().overlay));
        }
        if let Some(server) = self.nodes[NODES - 2].info().sip_udp {
            super::run::say_outbound(server, &self.nodes[NODES - 2].info().overlay, &self.alice.account);
        }
        say("Each has the other as a contact: dial `alice` or `bob`, a whole number, or `echo` to hear yourself.");
        say("Ctrl-C ends the demo and leaves nothing behind.");
        Ok(())
    }

    async fn stop(self) {
        futures::future::join_all(self.nodes.into_iter().map(Node::stop)).await;
    }
}

impl Person {
    async fn line(&self, info: &RunInfo) -> anyhow::Result<Line> {
        let server = info.sip_udp.context("the demo's SIP address")?;
        Ok(Line::register(server, &self.account, &self.password).await?)
    }
}

fn new_person(dir: &DataDir, name: &str, hertz: f32) -> anyhow::Result<Person> {
    let new = NewPhone {
        name: name.to_owned(),
        extension: None,
        password: None,
        display: Some(name.to_owned()),
        sha256: false,
        owner: Owner::New,
    };
    let added = gateway::add_phone(dir, new, None)?;
    Ok(Person { user: added.user, account: added.account.name, password: added.account.password, hertz })
}

/// Each gets the other as a contact.
fn introduce(alice_node: &Node, bob_dir: &DataDir, people: &[Person]) -> anyhow::Result<()> {
    let [alice, bob] = people else { anyhow::bail!("two people") };
    Book::new(alice_node.data_dir()).add_contact(&bob.account, bob.user)?;
    Book::new(bob_dir).add_contact(&alice.account, alice.user)?;
    Ok(())
}

fn settings(person: bool, overlay: &str, bootstrap: Vec<String>) -> Settings {
    let loopback = Listen::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let mut settings = Settings::of_role(if person { Role::Desktop } else { Role::Relay });
    settings.overlay.test_seed = Some(overlay.to_owned());
    settings.overlay.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    settings.overlay.bootstrap = bootstrap;
    settings.overlay.mdns = false;
    settings.overlay.serve = Serve::On;
    if person {
        (settings.sip.udp, settings.sip.tcp) = (loopback, loopback);
    }
    settings.api.listen = Listen::Off;
    settings
}

/// Waits until the overlay holds the user's binding.
async fn published(node: &Node, user: &IdHash) -> anyhow::Result<()> {
    let mut status = node.parts().locator.status();
    let name = user.to_string();
    let held = status.wait_for(|s| s.users.get(&name).is_some_and(|u| u.bound && u.copies > 0));
    let held = timeout(READY, held).await.map(|result| result.map(|_| ()));
    held.context("bob's binding was not published in time")?.context("the node stopped")
}

/// The call as the caller's node recorded it.
async fn finished_call(node: &Node) -> Option<crate::calls::CallRecord> {
    let mut status = node.parts().calls.status();
    let done = timeout(Duration::from_secs(3), status.wait_for(|s| !s.recent.is_empty())).await;
    done.ok()?.ok()?.recent.first().cloned()
}

async fn timed<T>(call: impl Future<Output = T>) -> anyhow::Result<T> {
    timeout(CALL, call).await.context("the test call did not end")
}

fn show(json: bool, measured: &Measured) -> anyhow::Result<()> {
    if json {
        return print_json(measured);
    }
    let ms = |value: Option<u64>| value.map_or_else(|| "not measured".to_owned(), |v| format!("{v} ms"));
    print(&format!("nodes           {}", measured.nodes));
    print(&format!("lookup          {}", ms(measured.lookup_ms)));
    print(&format!("time to ring    {}", ms(measured.ring_ms)));
    print(&format!("time to voice   {}", ms(measured.voice_ms)));
    print(&format!("path            {}", measured.path));
    let heard = if measured.tones_ok { "heard on both sides" } else { "NOT heard on both sides" };
    print(&format!("tones           {ALICE_HZ:.0} Hz and {BOB_HZ:.0} Hz: {heard}"));
    Ok(())
}
