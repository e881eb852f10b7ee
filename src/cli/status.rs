//! `status` and `lookup`: what the local API of the running node says, in words or as JSON.

use super::local::{self, Reach};
use super::words::{print, print_json, say};
use super::{Common, Outcome, recovery};
use crate::clock::UnixMillis;
use crate::node::run_file::RunInfo;
use crate::web::look_up;
use serde_json::Value;

pub(super) async fn status(common: &Common) -> anyhow::Result<Outcome> {
    let dir = common.dir()?;
    recovery::remind(&dir);
    let Some(run) = RunInfo::of_running(&dir)? else {
        say(&format!("no node runs on {}", dir.path().display()));
        return Ok(Outcome::No);
    };
    let (code, status) = local::get(&run, &dir, "/v1/status").await?;
    anyhow::ensure!(code == 200, "the running node refused ({code})");
    if common.json {
        print_json(&status)?;
        return Ok(Outcome::Done);
    }
    let number = |path: &str| status.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let text = |path: &str| status.pointer(path).and_then(Value::as_str).unwrap_or("-").to_owned();
    print(&format!("{} {}, up {} s, process {}", text("/role"), run.overlay, number("/uptime_s"), run.pid));
    print(&format!(
        "overlay   {} peers of about {} nodes, {} records held, {}",
        number("/overlay/peers"),
        number("/overlay/estimate"),
        number("/overlay/records_held"),
        if status.pointer("/overlay/server").and_then(Value::as_bool).unwrap_or(false) { "serving" } else { "client" },
    ));
    print(&format!("standing  {}", text("/overlay/standing")));
    let isolated = status.pointer("/overlay/isolated").and_then(Value::as_bool).unwrap_or(false);
    if isolated || (1..3).contains(&number("/overlay/confirmed_by")) {
        print("          another way in, from somebody whom you trust, makes it surer: --bootstrap ADDRESS");
    }
    for (user, published) in status.pointer("/published/users").and_then(Value::as_object).into_iter().flatten() {
        let copies = published.get("copies").and_then(Value::as_u64).unwrap_or(0);
        let state = match published.get("bound").and_then(Value::as_bool) {
            Some(true) => format!("reachable, {copies} copies"),
            _ => "no phone registered".to_owned(),
        };
        let trouble = published.get("trouble").and_then(Value::as_str).map(|t| format!(" ({t})")).unwrap_or_default();
        print(&format!("user      {user}  {state}{trouble}"));
    }
    for (account, contacts) in status.pointer("/sip/registered").and_then(Value::as_object).into_iter().flatten() {
        for contact in contacts.as_array().into_iter().flatten().filter_map(Value::as_str) {
            print(&format!("phone     {account}  {contact}"));
        }
    }
    if status.get("relay").is_some() {
        print(&format!(
            "relay     {} calls for {} nodes of {} networks, {} since start; {} of {} MB of this month; media for {}, STUN port {}",
            number("/relay/allocations"),
            number("/relay/nodes"),
            number("/relay/networks"),
            number("/relay/granted"),
            number("/relay/month_bytes") / 1_000_000,
            number("/relay/month_limit") / 1_000_000,
            text("/relay/media"),
            number("/relay/stun_port"),
        ));
    }
    print(&format!("calls     {} active, {} since start", number("/calls/active"), number("/calls/total")));
    Ok(Outcome::Done)
}

pub(super) async fn peers(common: &Common) -> anyhow::Result<Outcome> {
    let dir = common.dir()?;
    let Some(run) = RunInfo::of_running(&dir)? else {
        say(&format!("no node runs on {}", dir.path().display()));
        return Ok(Outcome::No);
    };
    let (code, peers) = local::get(&run, &dir, "/v1/peers").await?;
    anyhow::ensure!(code == 200, "the running node refused ({code})");
    if common.json {
        print_json(&peers)?;
        return Ok(Outcome::Done);
    }
    print(&row("peer", "network", ["good", "slow", "bad"].map(String::from), "seen first", "", ""));
    let now = UnixMillis::now();
    for peer in peers.as_array().into_iter().flatten() {
        let text = |field: &str| peer.get(field).and_then(Value::as_str).unwrap_or("-");
        let flag = |field: &str| peer.get(field).and_then(Value::as_bool).unwrap_or(false);
        let sums = ["good", "slow", "bad"]
            .map(|field| format!("{:.1}", peer.get(field).and_then(Value::as_f64).unwrap_or_default()));
        let first = peer.get("first_seen").and_then(Value::as_u64);
        let since =
            first.map_or_else(|| "-".to_owned(), |at| format!("{} h ago", now.0.saturating_sub(at) / 3_600_000));
        let table = if flag("in_table") { "in table" } else { "" };
        let proven = peer.get("proven").is_some_and(|at| !at.is_null());
        let verdict = match (proven, flag("shunned"), flag("avoided")) {
            (true, ..) => "shunned: it broke a signed promise",
            (false, true, _) => "shunned",
            (false, false, true) => "asked last",
            (false, false, false) => "",
        };
        print(&row(text("peer_id"), text("network"), sums, &since, table, verdict));
    }
    Ok(Outcome::Done)
}

fn row(peer: &str, network: &str, [good, slow, bad]: [String; 3], since: &str, table: &str, verdict: &str) -> String {
    format!("{peer:52}  {network:18}  {good:>6}  {slow:>6}  {bad:>6}  {since:>10}  {table:8}  {verdict}")
        .trim_end()
        .into()
}

pub(super) async fn lookup(common: &Common, who: &str) -> anyhow::Result<Outcome> {
    let dir = common.dir()?;
    let reach = Reach::find(common, &dir).await?;
    let answer = match &reach {
        Reach::Running(run) => {
            let (code, answer) = local::get(run, &dir, &format!("/v1/lookup?who={}", local::query(who))).await?;
            match code {
                200 => Ok(answer),
                _ => Err(answer.get("error").and_then(Value::as_str).unwrap_or("refused").to_owned()),
            }
        }
        Reach::Own(node) => match look_up(&node.parts().overlay, &node.directory(), who).await {
            Ok(answer) => Ok(serde_json::to_value(answer)?),
            Err(trouble) => Err(trouble.to_string()),
        },
    };
    reach.end().await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => {
            say(&format!("`{who}`: {why}"));
            return Ok(Outcome::No);
        }
    };
    let found = answer.get("found").and_then(Value::as_bool).unwrap_or(false);
    if common.json {
        print_json(&answer)?;
    } else {
        show(&answer, found);
    }
    Ok(if found { Outcome::Done } else { Outcome::No })
}

fn show(answer: &Value, found: bool) {
    let number = |path: &str| answer.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    print(answer.get("uri").and_then(Value::as_str).unwrap_or_default());
    let asked_anybody = answer.get("asked_anybody").and_then(Value::as_bool).unwrap_or(false);
    match (found, asked_anybody) {
        (true, _) => {}
        (false, true) => print("not online, or nobody: the overlay holds no valid binding"),
        (false, false) => print("no other node could be asked: the overlay is not reachable"),
    }
    for device in answer.get("devices").and_then(Value::as_array).into_iter().flatten() {
        let node = device.get("node").and_then(Value::as_str).unwrap_or_default();
        let left = device.get("expires_in_s").and_then(Value::as_u64).unwrap_or(0);
        let dnd = if device.get("dnd").and_then(Value::as_bool) == Some(true) { ", do not disturb" } else { "" };
        print(&format!("device    {node}  for {left} s{dnd}"));
        for address in device.get("addresses").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            print(&format!("          {address}"));
        }
    }
    print(&format!(
        "lookup    {} ms, {} nodes answered: {} with a valid copy, {} with nothing",
        number("/report/took_ms"),
        number("/report/asked"),
        number("/report/valid"),
        number("/report/empty"),
    ));
    for refused in answer.pointer("/report/refused").and_then(Value::as_array).into_iter().flatten() {
        let part = |i: usize| refused.get(i).and_then(Value::as_str).unwrap_or_default();
        print(&format!("refused   {}: {}", part(0), part(1)));
    }
}
