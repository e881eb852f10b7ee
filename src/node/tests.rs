use super::*;
use crate::config::{Listen, Role, Serve};
use crate::directory::PhoneAccount;
use crate::identity::Seed;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

/// Nothing here takes longer, even in a debug build on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

fn settings(overlay: &str, bootstrap: &[String]) -> Settings {
    let loopback = Listen::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let mut settings = Settings::of_role(Role::Desktop);
    settings.overlay.test_seed = Some(overlay.to_owned());
    settings.overlay.listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    settings.overlay.bootstrap = bootstrap.to_vec();
    settings.overlay.mdns = false;
    settings.overlay.serve = Serve::On;
    (settings.sip.udp, settings.sip.tcp) = (loopback, loopback);
    settings
}

fn config(dir: &DataDir, settings: Settings) -> NodeConfig {
    NodeConfig { dir: dir.clone(), settings, temporary: true, passphrase: None }
}

/// A user of its own for an account, as a command beside the node would make them.
fn add_phone(dir: &DataDir, name: &str) -> crate::uri::IdHash {
    let identity = Seed::generate().identity();
    users::keep(dir, &identity, None).unwrap();
    let account = PhoneAccount {
        name: name.to_owned(),
        password: "secret".to_owned(),
        sha256: false,
        user: identity.id.to_string(),
        extension: None,
        display: None,
    };
    Book::new(dir).add_phone(account).unwrap();
    identity.id
}

fn data_dir(home: &tempfile::TempDir, name: &str) -> DataDir {
    DataDir::open(&home.path().join(name)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_in_one_process_find_each_other_and_stop_in_time() {
    let home = tempfile::tempdir().unwrap();
    let first = Node::start(config(&data_dir(&home, "a"), settings("process", &[]))).await.unwrap();
    let bootstrap = first.info().listen.clone();
    assert!(bootstrap.iter().all(|a| a.contains("/p2p/")), "{bootstrap:?}");
    let second_dir = data_dir(&home, "b");
    let second = Node::start(config(&second_dir, settings("process", &bootstrap))).await.unwrap();
    timeout(DEADLINE, second.joined(1, |_| {})).await.expect("they meet");

    let taken = Node::start(config(&second_dir, settings("process", &[]))).await;
    assert!(matches!(taken, Err(NodeError::Dir(DirError::Taken { .. }))));
    assert_eq!(RunInfo::of_running(&second_dir).unwrap().as_ref(), Some(second.info()));

    for node in [first, second] {
        let start = Instant::now();
        node.stop().await;
        assert!(start.elapsed() <= Duration::from_secs(3), "{:?}", start.elapsed());
    }
    assert_eq!(RunInfo::of_running(&second_dir).unwrap(), None);
    let again = Node::start(config(&second_dir, settings("process", &[]))).await.unwrap();
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_node_reads_the_phone_book_again() {
    let home = tempfile::tempdir().unwrap();
    let dir = data_dir(&home, "a");
    let node = Node::start(config(&dir, settings("book", &[]))).await.unwrap();
    let user = add_phone(&dir, "desk");
    Book::new(&dir).add_contact("anna", user).unwrap();
    let mut directory = node.directory.clone();
    let read = directory.wait_for(|d| d.accounts.contains_key("desk") && d.contacts.contains_key("anna"));
    timeout(DEADLINE, read).await.expect("in time").expect("the node runs");
    // A broken file changes nothing.
    dir.write_private(&dir.file("phones.toml"), "nonsense").unwrap();
    assert!(node.directory().accounts.contains_key("desk"));
    node.stop().await;
}

#[tokio::test]
async fn a_taken_sip_port_is_named_and_nothing_keeps_running() {
    let home = tempfile::tempdir().unwrap();
    let dir = data_dir(&home, "a");
    let taken = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut wanted = settings("taken", &[]);
    wanted.sip.udp = Listen::At(taken.local_addr().unwrap());
    let error = Node::start(config(&dir, wanted)).await.err().expect("refused").to_string();
    assert!(error.contains(&taken.local_addr().unwrap().to_string()) && error.contains("--sip"), "{error}");
    Node::start(config(&dir, settings("taken", &[]))).await.unwrap().stop().await;
}
