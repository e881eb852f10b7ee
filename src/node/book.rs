//! `phones.toml` and `contacts.toml`: SIP accounts and short names, edited by commands, read by a running node.

use super::dir::{DataDir, DirError};
use crate::directory::{Directory, PhoneAccount};
use crate::sip::Account;
use crate::uri::{IdHash, UserUri};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// More accounts than this do not fit one gateway; it also bounds what a broken file can make of us.
pub const MAX_ACCOUNTS: usize = 5_000;
/// More contacts than this are not a phone book of a person.
pub const MAX_CONTACTS: usize = 10_000;

const PHONES: &str = "phones.toml";
const CONTACTS: &str = "contacts.toml";

#[derive(Debug, thiserror::Error)]
pub enum BookError {
    #[error(transparent)]
    Dir(#[from] DirError),
    #[error("{path}: {what}", path = path.display())]
    Bad { path: PathBuf, what: String },
    #[error("`{0}` is not a name: 1 to 32 of a-z 0-9 . _ -, and not `echo`")]
    Name(String),
    #[error("extension `{0}` is not 1 to 8 digits")]
    Extension(String),
    #[error("{0}")]
    Taken(String),
    #[error("there is no {kind} called `{name}`")]
    Absent { kind: &'static str, name: String },
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PhonesFile {
    #[serde(default)]
    phone: Vec<PhoneAccount>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContactsFile {
    #[serde(default)]
    contacts: BTreeMap<String, String>,
}

/// The two files of one data directory.
#[derive(Clone, Debug)]
pub struct Book {
    dir: DataDir,
}

impl Book {
    pub fn new(dir: &DataDir) -> Self {
        Self { dir: dir.clone() }
    }

    /// The files, for watching them.
    pub fn paths(&self) -> [PathBuf; 2] {
        [self.dir.file(PHONES), self.dir.file(CONTACTS)]
    }

    /// All accounts by name.
    ///
    /// # Errors
    /// Unreadable file, wrong mode (it holds passwords), or something in it that cannot be.
    pub fn phones(&self) -> Result<BTreeMap<String, PhoneAccount>, BookError> {
        let path = self.dir.file(PHONES);
        let Some(text) = self.dir.read_private(&path)? else { return Ok(BTreeMap::new()) };
        let bad = |what: String| BookError::Bad { path: path.clone(), what };
        let file: PhonesFile = toml::from_str(&text).map_err(|e| bad(one_line(&e)))?;
        if file.phone.len() > MAX_ACCOUNTS {
            return Err(bad(format!("more than {MAX_ACCOUNTS} accounts")));
        }
        let mut phones = BTreeMap::new();
        let mut extensions = BTreeMap::new();
        for phone in file.phone {
            check(&phone).map_err(|e| bad(e.to_string()))?;
            if let Some(extension) = phone.extension.clone()
                && extensions.insert(extension.clone(), ()).is_some()
            {
                return Err(bad(format!("extension {extension} is given twice")));
            }
            if let Some(twice) = phones.insert(phone.name.clone(), phone) {
                return Err(bad(format!("account `{}` is there twice", twice.name)));
            }
        }
        Ok(phones)
    }

    /// Short name → user.
    ///
    /// # Errors
    /// Unreadable file, or something in it that is no number.
    pub fn contacts(&self) -> Result<BTreeMap<String, IdHash>, BookError> {
        let path = self.dir.file(CONTACTS);
        let Some(text) = self.dir.read_private(&path)? else { return Ok(BTreeMap::new()) };
        let bad = |what: String| BookError::Bad { path: path.clone(), what };
        let file: ContactsFile = toml::from_str(&text).map_err(|e| bad(one_line(&e)))?;
        if file.contacts.len() > MAX_CONTACTS {
            return Err(bad(format!("more than {MAX_CONTACTS} contacts")));
        }
        let mut contacts = BTreeMap::new();
        for (name, number) in file.contacts {
            if !is_name(&name) {
                return Err(bad(BookError::Name(name).to_string()));
            }
            let user = number_of(&number).map_err(|e| bad(format!("`{name}`: {e}")))?;
            contacts.insert(name, user);
        }
        Ok(contacts)
    }

    /// # Errors
    /// Bad or taken name or extension, or the file cannot be written.
    pub fn add_phone(&self, phone: PhoneAccount) -> Result<(), BookError> {
        check(&phone)?;
        let _edit = self.dir.edit(PHONES)?;
        let mut phones = self.phones()?;
        if phones.contains_key(&phone.name) {
            return Err(BookError::Taken(format!("there is a phone account `{}` already", phone.name)));
        }
        if let Some(extension) = &phone.extension
            && let Some(other) = phones.values().find(|p| p.extension.as_ref() == Some(extension))
        {
            return Err(BookError::Taken(format!("extension {extension} belongs to `{}`", other.name)));
        }
        if phones.len() >= MAX_ACCOUNTS {
            return Err(BookError::Taken(format!("{MAX_ACCOUNTS} accounts are the limit of one node")));
        }
        phones.insert(phone.name.clone(), phone);
        self.write_phones(phones)
    }

    /// # Errors
    /// No such account, or the file cannot be written.
    pub fn remove_phone(&self, name: &str) -> Result<PhoneAccount, BookError> {
        let _edit = self.dir.edit(PHONES)?;
        let mut phones = self.phones()?;
        let gone =
            phones.remove(name).ok_or_else(|| BookError::Absent { kind: "phone account", name: name.to_owned() })?;
        self.write_phones(phones)?;
        Ok(gone)
    }

    /// # Errors
    /// Bad name, or the file cannot be written. An existing contact of that name is replaced.
    pub fn add_contact(&self, name: &str, user: IdHash) -> Result<(), BookError> {
        if !is_name(name) {
            return Err(BookError::Name(name.to_owned()));
        }
        let _edit = self.dir.edit(CONTACTS)?;
        let mut contacts = self.contacts()?;
        contacts.insert(name.to_owned(), user);
        self.write_contacts(&contacts)
    }

    /// # Errors
    /// No such contact, or the file cannot be written.
    pub fn remove_contact(&self, name: &str) -> Result<(), BookError> {
        let _edit = self.dir.edit(CONTACTS)?;
        let mut contacts = self.contacts()?;
        if contacts.remove(name).is_none() {
            return Err(BookError::Absent { kind: "contact", name: name.to_owned() });
        }
        self.write_contacts(&contacts)
    }

    /// Both files as one phone book.
    ///
    /// # Errors
    /// As reading either.
    pub fn directory(&self, overlay_name: &str) -> Result<Directory, BookError> {
        Ok(Directory { overlay_name: overlay_name.to_owned(), accounts: self.phones()?, contacts: self.contacts()? })
    }

    fn write_phones(&self, phones: BTreeMap<String, PhoneAccount>) -> Result<(), BookError> {
        self.write(PHONES, &PhonesFile { phone: phones.into_values().collect() })
    }

    fn write_contacts(&self, contacts: &BTreeMap<String, IdHash>) -> Result<(), BookError> {
        let contacts = contacts.iter().map(|(name, user)| (name.clone(), user.to_string())).collect();
        self.write(CONTACTS, &ContactsFile { contacts })
    }

    fn write(&self, name: &str, content: &impl Serialize) -> Result<(), BookError> {
        let path = self.dir.file(name);
        let text = toml::to_string(content).map_err(|e| BookError::Bad { path: path.clone(), what: e.to_string() })?;
        Ok(self.dir.write_private(&path, &text)?)
    }
}

/// A number or URI as people write it.
///
/// # Errors
/// What is wrong with it.
pub fn number_of(text: &str) -> Result<IdHash, crate::uri::UriError> {
    if text.contains('@') { text.parse::<UserUri>().map(|uri| uri.id) } else { text.parse() }
}

/// What `sip` needs of the accounts.
pub fn sip_accounts(directory: &Directory) -> BTreeMap<String, Account> {
    directory
        .accounts
        .values()
        .map(|a| {
            let account = Account { name: a.name.clone(), password: a.password.clone(), sha256: a.sha256 };
            (a.name.clone(), account)
        })
        .collect()
}

fn check(phone: &PhoneAccount) -> Result<(), BookError> {
    if !is_name(&phone.name) {
        return Err(BookError::Name(phone.name.clone()));
    }
    if let Some(extension) = &phone.extension
        && !(matches!(extension.len(), 1..=8) && extension.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(BookError::Extension(extension.clone()));
    }
    if phone.password.is_empty() || phone.password.len() > 128 {
        return Err(BookError::Taken(format!("`{}`: a password has 1 to 128 characters", phone.name)));
    }
    phone.user.parse::<IdHash>().map(|_| ()).map_err(|e| BookError::Taken(format!("`{}`: user: {e}", phone.name)))
}

/// Names of accounts and contacts. A 40-character name could be taken for a number; `echo` is a service.
fn is_name(name: &str) -> bool {
    matches!(name.len(), 1..=32)
        && name != "echo"
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().lines().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Seed;

    fn book() -> (tempfile::TempDir, Book, IdHash) {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&home.path().join("data")).unwrap();
        let user = Seed::generate().identity().id;
        (home, Book::new(&dir), user)
    }

    fn phone(name: &str, user: IdHash, extension: Option<&str>) -> PhoneAccount {
        PhoneAccount {
            name: name.to_owned(),
            password: "secret".to_owned(),
            sha256: false,
            user: user.to_string(),
            extension: extension.map(str::to_owned),
            display: None,
        }
    }

    #[test]
    fn accounts_are_kept_and_names_and_extensions_are_unique() {
        let (_home, book, user) = book();
        book.add_phone(phone("desk", user, Some("12"))).unwrap();
        assert!(matches!(book.add_phone(phone("desk", user, None)), Err(BookError::Taken(_))));
        assert!(matches!(book.add_phone(phone("hall", user, Some("12"))), Err(BookError::Taken(_))));
        for name in ["", "Echo", "echo", "a b", &"x".repeat(33)] {
            assert!(matches!(book.add_phone(phone(name, user, None)), Err(BookError::Name(_))), "{name}");
        }
        assert_eq!(book.phones().unwrap().keys().collect::<Vec<_>>(), ["desk"]);
        book.remove_phone("desk").unwrap();
        assert!(matches!(book.remove_phone("desk"), Err(BookError::Absent { .. })));
    }

    #[test]
    fn contacts_accept_what_people_write() {
        let (_home, book, user) = book();
        book.add_contact("anna", number_of(&format!("sip:{user}@peerline.alt")).unwrap()).unwrap();
        book.add_contact("anna", number_of(&user.grouped()).unwrap()).unwrap();
        assert_eq!(book.contacts().unwrap().get("anna"), Some(&user));
        book.remove_contact("anna").unwrap();
        assert!(book.remove_contact("anna").is_err());
    }

    #[test]
    fn a_broken_file_is_named_in_one_line() {
        let (home, book, _) = book();
        let dir = DataDir::open(&home.path().join("data")).unwrap();
        for text in ["[[phone]]\nname = \"x\"\n", "nonsense", "[[phone]]\ncolour = 1\n"] {
            dir.write_private(&dir.file(PHONES), text).unwrap();
            let error = book.phones().unwrap_err().to_string();
            assert!(error.contains("phones.toml") && error.lines().count() == 1, "{error}");
        }
    }
}
