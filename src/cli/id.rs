//! `id show|export|import|card`.

use super::first;
use super::words::{print, print_json, say};
use super::{Common, Outcome};
use crate::clock::UnixMillis;
use crate::config::ChosenOverlay;
use crate::gateway::{self, NewPhone, Owner};
use crate::identity::{NodeSecret, Seed, UserIdentity};
use crate::node::Passphrase;
use crate::node::book::{Book, number_of};
use crate::node::dir::DataDir;
use crate::node::users;
use crate::record::{CardDraft, sign_card};
use crate::uri::IdHash;
use anyhow::Context;
use clap::Subcommand;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

#[derive(Subcommand)]
pub(super) enum IdCommand {
    /// Your numbers, and what is kept here
    Show,
    /// Copy an identity (its root key) to a file, under a passphrase
    Export {
        file: PathBuf,
        /// Which, when there are several
        #[arg(long, value_name = "NUMBER")]
        user: Option<String>,
        /// Take the root key off this machine: only the device certificate stays, for at most 30 days
        #[arg(long)]
        offline: bool,
    },
    /// Bring a number back: from an exported file, or from 24 recovery words on standard input
    Import { file: Option<PathBuf> },
    /// What to give away so that others can call: number, address, and a signed card
    Card {
        /// Which, when there are several
        #[arg(long, value_name = "NUMBER")]
        user: Option<String>,
        /// A name on the card: what its reader may call you, at most 48 bytes
        #[arg(long, value_name = "NAME")]
        nickname: Option<String>,
    },
}

pub(super) fn id(common: &Common, command: IdCommand) -> anyhow::Result<Outcome> {
    let dir = common.dir()?;
    match command {
        IdCommand::Show => show(common, &dir),
        IdCommand::Export { file, user, offline } => export(common, &dir, &file, user.as_deref(), offline),
        IdCommand::Import { file } => import(common, &dir, file.as_deref()),
        IdCommand::Card { user, nickname } => card(common, &dir, user.as_deref(), nickname),
    }
}

fn show(common: &Common, dir: &DataDir) -> anyhow::Result<Outcome> {
    let overlay = ChosenOverlay::choose(&common.settings(None)?.overlay)?;
    let all = users::list(dir)?.iter().map(|user| users::show(dir, user)).collect::<Result<Vec<_>, _>>()?;
    if common.json {
        print_json(&all)?;
    } else {
        for user in &all {
            print(&user.grouped);
            print(&format!("  sip:{}@{}", user.number, overlay.name));
            print(if user.root_here { "  root key: here" } else { "  root key: not on this machine" });
        }
    }
    if all.is_empty() {
        say("no identity yet: `peerline` makes one, `peerline id import` brings one back");
        return Ok(Outcome::No);
    }
    Ok(Outcome::Done)
}

fn export(common: &Common, dir: &DataDir, file: &Path, user: Option<&str>, offline: bool) -> anyhow::Result<Outcome> {
    let user = pick(dir, user)?;
    anyhow::ensure!(!file.exists(), "{} exists already", file.display());
    let path = users::identity_path(dir, &user);
    let (identity, _) = first::with_passphrase(common, |p| Ok(UserIdentity::load(&path, p)?))?;
    let passphrase = first::choose_passphrase(common)?;
    identity.save(file, passphrase.as_ref().map(Passphrase::as_str))?;
    if passphrase.is_none() {
        say("Warning: the copy is unencrypted: whoever reads it has your number.");
    }
    if offline {
        let until = users::show(dir, &user)?.certificate_until;
        anyhow::ensure!(until.is_some(), "start the node once first, so that this device has its certificate");
        std::fs::remove_file(&path).with_context(|| format!("{}", path.display()))?;
        say("The root key is off this machine. Bring it back with `peerline id import` to renew the certificate.");
    }
    say(&format!("{} holds {}", file.display(), user.grouped()));
    Ok(Outcome::Done)
}

fn import(common: &Common, dir: &DataDir, file: Option<&Path>) -> anyhow::Result<Outcome> {
    let (identity, passphrase) = match file {
        Some(path) => first::with_passphrase(common, |p| Ok(UserIdentity::load(path, p)?))?,
        None => {
            let words = read_words()?;
            (Seed::from_words(&words)?.identity(), None)
        }
    };
    let passphrase = match passphrase {
        Some(passphrase) => Some(passphrase),
        None => first::choose_passphrase(common)?,
    };
    let user = identity.id;
    users::keep(dir, &identity, passphrase.as_ref().map(Passphrase::as_str))?;
    if passphrase.is_none() {
        first::warn_unprotected();
    }
    if Book::new(dir).phones()?.is_empty() {
        let name = first::DESKTOP_ACCOUNT.to_owned();
        let owner = Owner::User(user);
        let new = NewPhone { name, extension: None, password: None, display: None, sha256: false, owner };
        gateway::add_phone(dir, new, None)?;
    }
    if common.json {
        print_json(&users::show(dir, &user)?)?;
    } else {
        print(&user.grouped());
        say("That is your number; it is back on this machine.");
    }
    Ok(Outcome::Done)
}

fn card(common: &Common, dir: &DataDir, user: Option<&str>, nickname: Option<String>) -> anyhow::Result<Outcome> {
    let overlay = ChosenOverlay::choose(&common.settings(None)?.overlay)?;
    let user = pick(dir, user)?;
    let device = NodeSecret::load_or_create(dir.path())?;
    let now = UnixMillis::now();
    let open = |p: Option<&str>| users::certified(dir, &user, &overlay.id, device.public(), p, now);
    let (certified, _) = first::with_passphrase(common, open)?;
    let uri = format!("sip:{user}@{}", overlay.name);
    let said = CardDraft { overlay_name: overlay.name, nickname: nickname.unwrap_or_default(), node_hints: Vec::new() };
    let host = &certified.user;
    let card = sign_card(&host.header, &host.certificate, &device, &overlay.id, &said)
        .context("no card can be made with that nickname")?;
    if common.json {
        let shown = serde_json::json!({
            "number": user.to_string(), "grouped": user.grouped(), "uri": uri, "card": card,
        });
        print_json(&shown)?;
    } else {
        print(&user.grouped());
        print(&uri);
        print(&card);
    }
    Ok(Outcome::Done)
}

fn read_words() -> anyhow::Result<zeroize::Zeroizing<String>> {
    let mut words = zeroize::Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        *words = rpassword::prompt_password("The 24 recovery words (not shown): ").context("the terminal")?;
    } else {
        // 24 words of at most 8 letters and a line before them; whatever is longer is something else.
        std::io::stdin().take(1_024).read_to_string(&mut words).context("standard input")?;
    }
    // A file of recovery words names the number in a line of its own.
    let plain = words.lines().filter(|line| !line.trim_start().starts_with('#'));
    Ok(zeroize::Zeroizing::new(plain.collect::<Vec<_>>().join(" ")))
}

fn pick(dir: &DataDir, number: Option<&str>) -> anyhow::Result<IdHash> {
    let here = users::list(dir)?;
    match number {
        Some(number) => {
            let user = number_of(number).with_context(|| format!("`{number}`"))?;
            anyhow::ensure!(here.contains(&user), "{user} is not a user of this node");
            Ok(user)
        }
        None if here.len() > 1 => anyhow::bail!("there are {} users here: say which with --user NUMBER", here.len()),
        None => here.first().copied().context("no identity yet: `peerline` makes one"),
    }
}
