//! Issue A, "Show" 4: an overlay of 50 nodes loses 15 of them, at once and without a word. Readers are nodes in client
//! mode: they keep nothing, so that every lookup goes over the network.
//!
//! Each server runs in a runtime of its own. Killed: the runtime is torn down, no line of the node's code for stopping
//! runs, and its sockets are closed by the kernel, as after SIGKILL. Frozen: its only thread stands still; its sockets
//! are open and accept connections, and nothing answers, as after SIGSTOP or behind a firewall that drops.

use super::harness::{Node, Setup, User, first_answer, node, percentile, reaches_within};
use super::mortal::Mortal;
use peerline::uri::IdHash;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const NODES: usize = 50;
const LOST: usize = 15;
const READERS: usize = 5;

/// A lookup that brought nothing by now is a call that failed.
const IN_TIME: Duration = Duration::from_secs(5);

/// A node that knew half of the others when it looked around last looks again after up to 32 s: where 55 start at once on
/// a busy machine, that may come twice. What is tried here begins after it.
const JOINED: Duration = Duration::from_secs(120);

struct Scene {
    servers: Vec<Mortal>,
    readers: Vec<Node>,
    users: Vec<IdHash>,
}

impl Scene {
    /// 50 servers, readers, and users published in turn.
    async fn set() -> Self {
        let users = if is_long() { 200 } else { 30 };
        let (began, cpu) = (Instant::now(), cpu_time());
        let first = Mortal::start(Vec::new(), Setup::default()).await;
        let bootstrap = vec![first.node.address.clone()];
        let mut starting = JoinSet::new();
        for _ in 1..NODES {
            starting.spawn(Mortal::start(bootstrap.clone(), Setup::default()));
        }
        let mut servers = vec![first];
        servers.extend(starting.join_all().await);
        let mut readers = Vec::new();
        for _ in 0..READERS {
            readers.push(node(&bootstrap, Setup { server: Some(false), ..Setup::default() }).await);
        }
        for node in servers.iter().map(|mortal| &mortal.node).chain(&readers) {
            reaches_within(JOINED, &node.overlay, |status| status.estimate >= 20).await;
        }
        println!(
            "{NODES} servers and {READERS} readers in touch after {:?}; CPU of all nodes {:?}",
            began.elapsed(),
            cpu_time() - cpu
        );
        let mut scene = Self { servers, readers, users: Vec::new() };
        scene.publish(users, "all alive").await;
        scene
    }

    /// In the short form every eighth server, of which two are among those that will be lost: what a node's first
    /// publication costs is above all its connections to the others.
    fn publisher(&self, n: usize) -> usize {
        let every = if is_long() { 1 } else { 8 };
        n % self.servers.len().div_ceil(every) * every
    }

    async fn publish(&mut self, users: usize, when: &str) {
        let (mut times, mut copies, cpu) = (Vec::new(), usize::MAX, cpu_time());
        for n in 0..users {
            let from = &self.servers[self.publisher(n)].node;
            let user = User::at(&from.secret);
            match from.overlay.publish(user.bundle()).await {
                Ok(report) => {
                    copies = copies.min(report.copies);
                    times.push(Duration::from_millis(report.took_ms));
                    self.users.push(user.identity.id);
                }
                Err(error) => println!("{when}: publication failed: {error}"),
            }
        }
        println!(
            "{when}: {} of {users} publications read back (at least {copies} copies): p50 {:?} p99 {:?}; CPU of all nodes {:?} each",
            times.len(),
            percentile(&mut times, 50),
            percentile(&mut times, 99),
            (cpu_time() - cpu) / users as u32,
        );
        assert_eq!(times.len(), users, "{when}");
        assert!(copies >= 3);
    }

    /// Looks every user up once, from readers that hold nothing; the rate of those found in time.
    async fn look_up(&self, when: &str) -> f64 {
        let (mut times, cpu) = (Vec::new(), cpu_time());
        for (n, user) in self.users.iter().enumerate() {
            let reader = &self.readers[n % READERS].overlay;
            assert_eq!(reader.status().borrow().records_held, 0, "a reader that holds nothing");
            times.extend(first_answer(reader, *user).await.map(|(_, took)| took).filter(|took| *took <= IN_TIME));
        }
        let rate = times.len() as f64 / self.users.len() as f64;
        println!(
            "{when}: {} of {} lookups found ({:.1} %), first valid answer p50 {:?} p99 {:?} max {:?}; CPU of all nodes {:?} each",
            times.len(),
            self.users.len(),
            rate * 100.0,
            percentile(&mut times, 50),
            percentile(&mut times, 99),
            percentile(&mut times, 100),
            (cpu_time() - cpu) / self.users.len() as u32,
        );
        rate
    }

    /// A node that has never been there: from its start to the first answer.
    async fn newcomers(&self, when: &str) {
        let mut times = Vec::new();
        let bootstrap: Vec<String> = self.servers.iter().take(3).map(|mortal| mortal.node.address.clone()).collect();
        for user in self.users.iter().take(5) {
            let started = Instant::now();
            let reader = node(&bootstrap, Setup { server: Some(false), ..Setup::default() }).await;
            first_answer(&reader.overlay, *user).await.expect("a newcomer finds");
            times.push(started.elapsed());
        }
        println!(
            "{when}: newcomers, from start to answer: p50 {:?} max {:?}",
            percentile(&mut times, 50),
            percentile(&mut times, 100)
        );
    }
}

fn is_long() -> bool {
    std::env::var_os("PEERLINE_FULL").is_some()
}

/// User and system time of this process so far.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survives_the_death_of_a_third() {
    let mut scene = Scene::set().await;
    let before = scene.look_up("all alive").await;
    assert!(before >= 0.99, "{before}");
    scene.newcomers("all alive").await;

    let dead: Vec<Mortal> = scene.servers.drain(NODES - LOST..).collect();
    for mortal in dead {
        mortal.kill().await;
    }
    let after = scene.look_up("15 of 50 killed").await;
    assert!(after >= 0.99, "{after}");
    scene.newcomers("15 of 50 killed").await;
    scene.publish(10, "15 of 50 killed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survives_a_third_that_falls_silent() {
    let mut scene = Scene::set().await;
    let mut silent: Vec<Mortal> = scene.servers.drain(NODES - LOST..).collect();
    for mortal in &mut silent {
        mortal.freeze().await;
    }
    let after = scene.look_up("15 of 50 frozen").await;
    assert!(after >= 0.99, "{after}");
    scene.newcomers("15 of 50 frozen").await;
    scene.publish(10, "15 of 50 frozen").await;
}
