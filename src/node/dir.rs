//! The data directory: made 0700, checked, locked by one process; small files in it are replaced atomically.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What is wrong with a data directory. One line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    #[error("the platform names no data directory: give one with --data-dir")]
    NoneKnown,
    #[error("the data directory {path} cannot be used: {source}; choose another with --data-dir")]
    Unusable { path: PathBuf, source: io::Error },
    #[error("{path} is open to others (mode {mode:o}): run `chmod {wanted:o} {path}`", path = path.display())]
    Mode { path: PathBuf, mode: u32, wanted: u32 },
    #[error("another Peerline runs on {path}: stop it, or give this one its own --data-dir")]
    Taken { path: PathBuf },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
}

/// A data directory that exists with the right mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// The platform's place, e.g. `~/.local/share/peerline`.
    ///
    /// # Errors
    /// When the platform names none (no home directory).
    pub fn default_path() -> Result<PathBuf, DirError> {
        directories::ProjectDirs::from("", "", "peerline")
            .map(|dirs| dirs.data_dir().to_owned())
            .ok_or(DirError::NoneKnown)
    }

    /// Creates what is missing; refuses a directory that others may read.
    ///
    /// # Errors
    /// See [`DirError`].
    pub fn open(path: &Path) -> Result<Self, DirError> {
        let unusable = |source| DirError::Unusable { path: path.to_owned(), source };
        if !path.exists() {
            make_private(path).map_err(unusable)?;
        }
        let metadata = fs::metadata(path).map_err(unusable)?;
        if !metadata.is_dir() {
            return Err(unusable(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        if let Some(mode) = open_to_others(&metadata) {
            // Nothing can have leaked out of an empty directory, so it is simply put right.
            let empty = fs::read_dir(path).map_err(unusable)?.next().is_none();
            if !empty {
                return Err(DirError::Mode { path: path.to_owned(), mode, wanted: 0o700 });
            }
            set_mode(path, 0o700).map_err(unusable)?;
        }
        let dir = Self { path: path.to_owned() };
        make_private(&dir.users()).map_err(unusable)?;
        Ok(dir)
    }

    /// Takes the lock that lets one process alone run a node here. Held until the value is dropped, and released by the
    /// system whatever way the process ends.
    ///
    /// # Errors
    /// [`DirError::Taken`] when another process holds it.
    pub fn lock(&self) -> Result<DirLock, DirError> {
        let path = self.file("lock");
        let failed = |source| DirError::Unusable { path: self.path.clone(), source };
        let file = private_options().create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(DirError::Taken { path: self.path.clone() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Waits for the short lock around "read, change, write" of `name` (two commands at once).
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn edit(&self, name: &str) -> Result<DirLock, DirError> {
        let path = self.file(&format!(".{name}.lock"));
        let failed = |source| DirError::File { path: path.clone(), source };
        let file = private_options().create(true).truncate(false).open(&path).map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(DirLock { _file: file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
    /// A file directly inside.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
    /// Identities and device certificates.
    pub fn users(&self) -> PathBuf {
        self.path.join("users")
    }

    /// Reads a file that only the owner may read; `None` when it is not there.
    ///
    /// # Errors
    /// Wrong mode, not UTF-8, unreadable.
    pub fn read_private(&self, path: &Path) -> Result<Option<String>, DirError> {
        let failed = |source| DirError::File { path: path.to_owned(), source };
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        if let Some(mode) = open_to_others(&metadata) {
            return Err(DirError::Mode { path: path.to_owned(), mode, wanted: 0o600 });
        }
        fs::read_to_string(path).map(Some).map_err(failed)
    }

    /// Replaces a file in one step: 0600, on disk before it takes the name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_private(&self, path: &Path, text: &str) -> Result<(), DirError> {
        let failed = |source| DirError::File { path: path.to_owned(), source };
        let parent = path.parent().unwrap_or(&self.path);
        let mut file = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(path).map_err(|e| failed(e.error))?;
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)
    }

    /// The content of `name`, made by `create` the first time.
    ///
    /// # Errors
    /// As reading and writing.
    pub fn read_or_create(&self, name: &str, create: impl FnOnce() -> String) -> Result<String, DirError> {
        let path = self.file(name);
        if let Some(text) = self.read_private(&path)? {
            return Ok(text.trim().to_owned());
        }
        let text = create();
        self.write_private(&path, &text)?;
        Ok(text)
    }
}

/// Gone when dropped.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// `count` bytes from the system, as lower-case hex.
pub fn random_hex(count: usize) -> String {
    let mut bytes = vec![0; count];
    getrandom::fill(&mut bytes).expect("the system has a random source");
    data_encoding::HEXLOWER.encode(&bytes)
}

#[cfg(unix)]
fn private_options() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}
#[cfg(not(unix))]
fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

#[cfg(unix)]
fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
#[cfg(not(unix))]
fn make_private(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

#[cfg(unix)]
fn open_to_others(metadata: &fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    let mode = metadata.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}
#[cfg(not(unix))]
fn open_to_others(_metadata: &fs::Metadata) -> Option<u32> {
    None
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
#[cfg(not(unix))]
fn set_mode(_path: &Path, _mode: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_alone_holds_the_lock() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&home.path().join("data")).unwrap();
        let lock = dir.lock().unwrap();
        assert!(matches!(dir.lock(), Err(DirError::Taken { .. })));
        drop(lock);
        dir.lock().unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn refuses_what_others_may_read_and_says_how_to_mend_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data");
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o755).unwrap();
        let dir = DataDir::open(&path).expect("an empty one is put right");
        dir.write_private(&dir.file("secret"), "x").unwrap();
        set_mode(&dir.file("secret"), 0o644).unwrap();
        let error = dir.read_private(&dir.file("secret")).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        set_mode(&path, 0o750).unwrap();
        let error = DataDir::open(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
        set_mode(&path, 0o700).unwrap();
    }

    #[test]
    fn what_is_created_once_stays() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&home.path().join("data")).unwrap();
        let first = dir.read_or_create("api.token", || random_hex(16)).unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(dir.read_or_create("api.token", || random_hex(16)).unwrap(), first);
    }
}
