//! First use: what is missing is made, recovery words are handed over, the passphrase is asked for.

use super::words::{say, say_bold};
use super::{Common, recovery};
use crate::gateway::{self, NewPhone, Owner};
use crate::identity::KeyFileError;
use crate::node::Passphrase;
use crate::node::dir::DataDir;
use crate::node::users::{self, UserError};
use anyhow::Context;
use std::io::IsTerminal;

/// The SIP account of a desktop's only user.
pub(super) const DESKTOP_ACCOUNT: &str = "me";
/// Wrong passphrases on a terminal before giving up.
const TRIES: usize = 3;

/// Makes the desktop's user and account if there are none. Returns the passphrase, if one was given.
pub(super) fn desktop(common: &Common, dir: &DataDir) -> anyhow::Result<Option<Passphrase>> {
    if users::list(dir)?.is_empty() {
        let passphrase = choose_passphrase(common)?;
        let new = NewPhone {
            name: DESKTOP_ACCOUNT.to_owned(),
            extension: None,
            password: None,
            display: None,
            sha256: false,
            owner: Owner::New,
        };
        let added = gateway::add_phone(dir, new, passphrase.as_ref().map(Passphrase::as_str))?;
        say_bold("This is your number:");
        say(&format!("    {}", added.user.grouped()));
        if let Some(words) = &added.words {
            recovery::hand_over(dir, &added.user, words)?;
        }
        if passphrase.is_none() {
            warn_unprotected();
        }
        return Ok(passphrase);
    }
    if crate::node::book::Book::new(dir).phones()?.is_empty() {
        let owner = Owner::User(users::list(dir)?[0]);
        let name = DESKTOP_ACCOUNT.to_owned();
        let new = NewPhone { name, extension: None, password: None, display: None, sha256: false, owner };
        gateway::add_phone(dir, new, None)?;
    }
    passphrase_from_file(common)
}

/// What declining a passphrase means.
pub(super) fn warn_unprotected() {
    say("Warning: the root key lies unencrypted in the data directory, protected by its file mode alone: whoever can");
    say("read your files has your number. `peerline id export` writes a copy under a passphrase.");
}

/// From `--passphrase-file`, if given.
pub(super) fn passphrase_from_file(common: &Common) -> anyhow::Result<Option<Passphrase>> {
    let Some(path) = &common.passphrase_file else { return Ok(None) };
    let text = std::fs::read_to_string(path).with_context(|| format!("passphrase file {}", path.display()))?;
    let text = text.lines().next().unwrap_or_default().to_owned();
    anyhow::ensure!(!text.is_empty(), "passphrase file {}: its first line is empty", path.display());
    Ok(Some(Passphrase::new(text)))
}

/// A new passphrase: from the file, or asked for; `None` when declined.
///
/// # Errors
/// Without a terminal somebody must say which it is.
pub(super) fn choose_passphrase(common: &Common) -> anyhow::Result<Option<Passphrase>> {
    if let Some(given) = passphrase_from_file(common)? {
        return Ok(Some(given));
    }
    if common.no_passphrase {
        return Ok(None);
    }
    anyhow::ensure!(
        on_terminal(),
        "a passphrase for the new identity is needed: give --passphrase-file FILE, or --no-passphrase to rely on file \
         modes"
    );
    say("Choose a passphrase for the root key of your number (empty: none).");
    loop {
        let first = rpassword::prompt_password("Passphrase: ").context("the terminal")?;
        if first.is_empty() {
            return Ok(None);
        }
        if rpassword::prompt_password("Once more:  ").context("the terminal")? == first {
            return Ok(Some(Passphrase::new(first)));
        }
        say("They differ.");
    }
}

/// Runs `open` without a passphrase, then with the given one, then (on a terminal) with what the user types.
pub(super) fn with_passphrase<T>(
    common: &Common,
    open: impl Fn(Option<&str>) -> Result<T, UserError>,
) -> anyhow::Result<(T, Option<Passphrase>)> {
    let mut passphrase = passphrase_from_file(common)?;
    for _ in 0..=TRIES {
        let error = match open(passphrase.as_ref().map(Passphrase::as_str)) {
            Ok(opened) => return Ok((opened, passphrase)),
            Err(error) => error,
        };
        match &error {
            UserError::Key(KeyFileError::PassphraseNeeded { .. }) if on_terminal() && !common.no_passphrase => {}
            UserError::Key(KeyFileError::PassphraseNeeded { .. }) => {
                return Err(anyhow::Error::new(error).context("give it with --passphrase-file FILE"));
            }
            UserError::Key(KeyFileError::WrongPassphrase { .. })
                if on_terminal() && common.passphrase_file.is_none() =>
            {
                say("That is not it.");
            }
            _ => return Err(error.into()),
        }
        passphrase = Some(Passphrase::new(rpassword::prompt_password("Passphrase: ").context("the terminal")?));
    }
    anyhow::bail!("wrong passphrase")
}

fn on_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}
