//! Running a node in the foreground: desktop, relay, gateway.

use super::words::{Progress, StopRequest, print, print_json, say, say_bold, start_log};
use super::{Common, Outcome, first, local, recovery};
use crate::config::Role;
use crate::node::book::Book;
use crate::node::{Node, NodeConfig};
use crate::relay::{MediaFor, RelayStatus};
use crate::uri::IdHash;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::Duration;

/// Neighbours and bootstrap nodes answer within this time, or there are none.
const NOBODY_YET: Duration = Duration::from_secs(10);

pub(super) async fn run(common: &Common, role: Option<Role>) -> anyhow::Result<Outcome> {
    let dir = common.dir()?;
    // Before anything is asked or made: a second instance ends here.
    drop(dir.lock()?);
    let settings = common.settings(role)?;
    start_log(&settings.log.filter)?;
    let role = settings.role;
    recovery::remind(&dir);
    let chosen = match role {
        Role::Desktop => first::desktop(common, &dir)?,
        Role::Relay | Role::Gateway => first::passphrase_from_file(common)?,
    };
    let passphrase = match chosen {
        Some(passphrase) => Some(passphrase),
        None => local::unlock(common, &dir, &settings)?,
    };
    // Before others can see that the node is up: from then on it may be asked to end.
    let mut stop = StopRequest::listen()?;
    let node = Node::start(NodeConfig { dir, settings, temporary: false, passphrase }).await?;
    node.notices().iter().for_each(|notice| say_bold(notice));
    if common.json {
        print_json(node.info())?;
    } else {
        introduce(&node, role)?;
    }
    tokio::select! {
        () = stop.asked() => {}
        () = stay(&node, common.json) => {}
    }
    if !common.json {
        say("stopping");
    }
    // A second Ctrl-C does not wait for anybody.
    tokio::select! {
        () = node.stop() => {}
        () = stop.asked() => {}
    }
    Ok(Outcome::Done)
}

/// Shows joining, then waits for ever.
async fn stay(node: &Node, quiet: bool) {
    let overlay = &node.info().overlay;
    let mut progress = Progress::start(&format!("joining {overlay}"), quiet);
    if tokio::time::timeout(NOBODY_YET, node.joined(1, |_| {})).await.is_err() {
        progress.update(&format!(
            "joining {overlay}: nobody found yet, still looking; if you know a node, name it with --bootstrap ADDRESS"
        ));
        node.joined(1, |_| {}).await;
    }
    progress.end(&format!("joined {overlay}"));
    std::future::pending::<()>().await;
}

/// What every softphone must be told: it would ask the name servers for the host of an address.
pub(super) fn say_outbound(server: SocketAddr, overlay: &str, account: &str) {
    say(&format!(
        "The phone must use the node as its outbound proxy too: addresses end in @{overlay}, which no name server knows."
    ));
    say(&format!("    baresip    <sip:{account}@{server}>;auth_pass=PASSWORD;outbound=\"sip:{server}\""));
    say(&format!("    linphone   sip:{account}@{server}, proxy sip:{server}, route sip:{server};lr"));
}

/// What an operator is about to give away.
fn what_is_given(relay: &RelayStatus) -> String {
    let voice = match relay.media {
        MediaFor::Off => "voice is not relayed".to_owned(),
        MediaFor::Members => {
            format!("voice is relayed for those whom its users called, {} a month", size(relay.month_limit))
        }
        MediaFor::Anyone => {
            let (all, used) = (size(relay.month_limit), size(relay.month_bytes));
            format!("voice is relayed for anyone, {all} a month ({used} of it used)")
        }
    };
    match relay.stun_port {
        Some(port) => format!("{voice}; addresses are told on UDP port {port} (STUN)"),
        None => voice,
    }
}

fn size(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

fn introduce(node: &Node, role: Role) -> anyhow::Result<()> {
    let info = node.info();
    let phones = Book::new(node.data_dir()).phones()?;
    for user in &info.users {
        let grouped = user.number.parse::<IdHash>().map(|id| id.grouped()).unwrap_or_default();
        print(&format!("number    {grouped}"));
        print(&format!("address   {}", user.uri));
        for account in user.accounts.iter().filter_map(|a| phones.get(&a.name)) {
            let server = info.sip_udp.or(info.sip_tcp).map_or_else(|| "off".to_owned(), |s| s.to_string());
            // What is no terminal may be a system log: passwords do not end up there.
            let open = role == Role::Desktop && std::io::stdout().is_terminal();
            let password = if open { &account.password } else { "(see `peerline phone list`)" };
            print(&format!("phone     server {server} (UDP or TCP)  user {}  password {password}", account.name));
        }
    }
    match role {
        Role::Desktop => {
            say(
                "Next: register a softphone with that account, call `echo` to hear yourself, and give your number away",
            );
            say("(`peerline id card`).");
            if let Some(server) = info.sip_udp.or(info.sip_tcp) {
                say_outbound(server, &info.overlay, first::DESKTOP_ACCOUNT);
            }
        }
        Role::Gateway if info.users.is_empty() => {
            say("Next: `peerline phone add NAME` makes an account and a number for a phone.");
        }
        Role::Gateway => {}
        Role::Relay => {
            let elsewhere = |a: &&String| !a.contains("/127.0.0.1/") && !a.contains("/::1/") && !a.contains("/fe80::");
            let reachable: Vec<&String> = info.listen.iter().filter(elsewhere).collect();
            let shown = if reachable.is_empty() { info.listen.iter().collect() } else { reachable };
            for address in shown {
                print(&format!("bootstrap {address}"));
            }
            match &node.parts().relay {
                Some(relay) => say(&what_is_given(&relay.status().borrow())),
                None => say("voice is not relayed and addresses are not told ([relay] in the settings)"),
            }
        }
    }
    if let Some(api) = info.api {
        let page = if role == Role::Relay { format!(" http://{api}/relay") } else { String::new() };
        say(&format!("health and metrics: http://{api}/health http://{api}/metrics{page}"));
    }
    Ok(())
}
