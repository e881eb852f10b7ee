//! `phone add|list|remove`.

use super::words::{print, print_json, say};
use super::{Common, Outcome, first, recovery};
use crate::config::{ChosenOverlay, Role};
use crate::directory::PhoneAccount;
use crate::gateway::{self, NewPhone, Owner};
use crate::node::book::{Book, number_of};
use crate::node::dir::DataDir;
use crate::node::run_file::RunInfo;
use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::net::SocketAddr;

#[derive(Subcommand)]
pub(super) enum PhoneCommand {
    /// Make an account that a phone can register with
    Add(AddArgs),
    /// List the accounts, with their passwords
    List,
    /// Remove an account; its user stays
    Remove { name: String },
}

#[derive(Args)]
pub(super) struct AddArgs {
    /// SIP user name: 1 to 32 of a-z 0-9 . _ -
    name: String,
    /// Short number that other phones of this node may dial
    #[arg(long, value_name = "DIGITS")]
    extension: Option<String>,
    /// [default: a generated one]
    #[arg(long)]
    password: Option<String>,
    /// Name shown to who is called
    #[arg(long, value_name = "NAME")]
    display: Option<String>,
    /// Whose phone it is, when there are several users here
    #[arg(long, value_name = "NUMBER", conflicts_with = "new_user")]
    user: Option<String>,
    /// Make a user of its own for it (the rule on a gateway)
    #[arg(long)]
    new_user: bool,
    /// Challenge with SHA-256 instead of MD5; some phones fail on it
    #[arg(long)]
    sha256: bool,
}

/// One account, as printed.
#[derive(Serialize)]
struct Shown {
    name: String,
    password: String,
    number: String,
    uri: String,
    extension: Option<String>,
    /// Of the running node.
    server: Option<SocketAddr>,
}

pub(super) fn phone(common: &Common, command: PhoneCommand) -> anyhow::Result<Outcome> {
    let dir = common.dir()?;
    let settings = common.settings(None)?;
    let overlay = ChosenOverlay::choose(&settings.overlay)?.name;
    let running = RunInfo::of_running(&dir)?;
    let overlay = running.as_ref().map_or(overlay, |run| run.overlay.clone());
    let server = running.as_ref().and_then(|run| run.sip_udp.or(run.sip_tcp));
    let shown = |account: &PhoneAccount| Shown {
        name: account.name.clone(),
        password: account.password.clone(),
        number: account.user.clone(),
        uri: format!("sip:{}@{overlay}", account.user),
        extension: account.extension.clone(),
        server,
    };
    match command {
        PhoneCommand::Add(args) => {
            let role = running.as_ref().map_or(settings.role, |run| run.role);
            let added = add(common, &dir, args, role)?;
            let shown = shown(&added.account);
            if common.json {
                print_json(&shown)?;
            } else {
                print_account(&shown);
            }
            if let Some(words) = &added.words {
                recovery::hand_over(&dir, &added.user, words)?;
                if common.passphrase_file.is_none() {
                    first::warn_unprotected();
                }
            }
        }
        PhoneCommand::List => {
            let all: Vec<Shown> = Book::new(&dir).phones()?.values().map(shown).collect();
            if common.json {
                print_json(&all)?;
            } else if all.is_empty() {
                say("no accounts yet: `peerline phone add NAME` makes one");
            } else {
                all.iter().for_each(print_account);
            }
        }
        PhoneCommand::Remove { name } => {
            Book::new(&dir).remove_phone(&name)?;
            say(&format!("{name} is removed; its user and number stay"));
        }
    }
    Ok(Outcome::Done)
}

fn add(common: &Common, dir: &DataDir, args: AddArgs, role: Role) -> anyhow::Result<gateway::Added> {
    let owner = match &args.user {
        Some(number) => Owner::User(number_of(number).with_context(|| format!("`{number}`"))?),
        None if args.new_user || role == Role::Gateway => Owner::New,
        None => Owner::Only,
    };
    let passphrase = first::passphrase_from_file(common)?;
    let new = NewPhone {
        name: args.name,
        extension: args.extension,
        password: args.password,
        display: args.display,
        sha256: args.sha256,
        owner,
    };
    Ok(gateway::add_phone(dir, new, passphrase.as_ref().map(crate::node::Passphrase::as_str))?)
}

fn print_account(account: &Shown) {
    let server = account.server.map_or_else(|| "(start the node)".to_owned(), |s| s.to_string());
    let extension = account.extension.as_ref().map(|e| format!("  extension {e}")).unwrap_or_default();
    print(&format!("user {}  password {}  server {server}{extension}", account.name, account.password));
    print(&format!("  {}", account.uri));
}
