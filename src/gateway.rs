//! The gateway role: phone accounts and the users behind them. Works on the files of a data directory, so it serves a
//! stopped node and a running one alike (which looks at them once a second). Not here: the node itself, SIP.

use crate::directory::PhoneAccount;
use crate::identity::{Seed, UserIdentity};
use crate::node::book::{Book, BookError};
use crate::node::dir::DataDir;
use crate::node::users::{self, UserError};
use crate::uri::IdHash;

/// 20 letters and digits of 32: 100 bits. Nobody types it twice, and MD5 digest needs all of them.
const PASSWORD_LETTERS: usize = 20;

/// Whose phone a new account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A user made for it.
    New,
    /// A user that is here already.
    User(IdHash),
    /// The only user here; one is made when there is none.
    Only,
}

/// A phone account to make.
#[derive(Clone)]
pub struct NewPhone {
    pub name: String,
    pub extension: Option<String>,
    /// `None`: a generated one.
    pub password: Option<String>,
    pub display: Option<String>,
    pub sha256: bool,
    pub owner: Owner,
}

/// What was made.
pub struct Added {
    pub account: PhoneAccount,
    pub user: IdHash,
    /// The recovery words of a user made for it: to be shown once, kept nowhere.
    pub words: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error(transparent)]
    Book(#[from] BookError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error("there are {0} users here: say whose phone it is with --user NUMBER or --new-user")]
    WhichUser(usize),
    #[error("{0} is not a user of this node: `peerline id show` lists them")]
    NotHere(IdHash),
}

/// Makes a user whose root key lies in the data directory.
///
/// # Errors
/// When it cannot be written.
pub fn new_user(dir: &DataDir, passphrase: Option<&str>) -> Result<(UserIdentity, String), UserError> {
    let seed = Seed::generate();
    let identity = seed.identity();
    users::keep(dir, &identity, passphrase)?;
    Ok((identity, seed.words()))
}

/// Adds an account, and the user behind it when asked for.
///
/// # Errors
/// Bad or taken name or extension, unknown user, or files that cannot be written. Nothing is left behind.
pub fn add_phone(dir: &DataDir, new: NewPhone, passphrase: Option<&str>) -> Result<Added, GatewayError> {
    let here = users::list(dir)?;
    let existing = match new.owner {
        Owner::User(user) if here.contains(&user) => Some(user),
        Owner::User(user) => return Err(GatewayError::NotHere(user)),
        Owner::New => None,
        Owner::Only if here.len() > 1 => return Err(GatewayError::WhichUser(here.len())),
        Owner::Only => here.first().copied(),
    };
    let (user, words) = match existing {
        Some(user) => (user, None),
        None => {
            let (identity, words) = new_user(dir, passphrase)?;
            (identity.id, Some(words))
        }
    };
    let account = PhoneAccount {
        name: new.name,
        password: new.password.unwrap_or_else(password),
        sha256: new.sha256,
        user: user.to_string(),
        extension: new.extension,
        display: new.display,
    };
    if let Err(error) = Book::new(dir).add_phone(account.clone()) {
        if words.is_some() {
            // The number was told to nobody: a refused account leaves no user behind.
            let _ = std::fs::remove_file(users::identity_path(dir, &user));
        }
        return Err(error.into());
    }
    Ok(Added { account, user, words })
}

/// A password for a SIP account.
pub fn password() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2345678";
    let mut bytes = [0; PASSWORD_LETTERS];
    getrandom::fill(&mut bytes).expect("the system has a random source");
    bytes.iter().map(|b| char::from(LETTERS[usize::from(b % 32)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phone(name: &str, owner: Owner) -> NewPhone {
        NewPhone { name: name.to_owned(), extension: None, password: None, display: None, sha256: false, owner }
    }

    #[test]
    fn each_phone_has_a_user_of_its_own_or_shares_one() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&home.path().join("data")).unwrap();
        let first = add_phone(&dir, phone("one", Owner::Only), None).unwrap();
        assert!(first.words.is_some());
        let second = add_phone(&dir, phone("two", Owner::Only), None).unwrap();
        assert_eq!((second.user, second.words), (first.user, None));
        let third = add_phone(&dir, phone("three", Owner::New), None).unwrap();
        assert_ne!(third.user, first.user);
        assert!(matches!(add_phone(&dir, phone("four", Owner::Only), None), Err(GatewayError::WhichUser(2))));
        add_phone(&dir, phone("four", Owner::User(third.user)), None).unwrap();
    }

    #[test]
    fn a_refused_account_leaves_no_user_behind() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&home.path().join("data")).unwrap();
        add_phone(&dir, phone("one", Owner::New), None).unwrap();
        assert!(add_phone(&dir, phone("one", Owner::New), None).is_err());
        assert_eq!(users::list(&dir).unwrap().len(), 1);
    }

    #[test]
    fn passwords_are_long_and_differ() {
        assert_eq!(password().len(), PASSWORD_LETTERS);
        assert_ne!(password(), password());
    }
}
