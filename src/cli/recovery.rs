//! The 24 recovery words on their way to the user: shown once on a terminal; without one, where output ends up in a log
//! that others keep and read, put into a private file that the user empties onto paper.

use super::words::{say, say_bold};
use crate::node::dir::DataDir;
use crate::uri::IdHash;
use anyhow::Context;
use std::io::IsTerminal;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// In the data directory, mode 0600; each number's line starts with `#`, so that `id import` can read the file.
const FILE: &str = "recovery-words.txt";

fn path(dir: &DataDir) -> PathBuf {
    dir.file(FILE)
}

/// Hands the words of a new number over.
///
/// # Errors
/// When there is no terminal and the file cannot be written.
pub(super) fn hand_over(dir: &DataDir, user: &IdHash, words: &str) -> anyhow::Result<()> {
    if std::io::stderr().is_terminal() {
        show(words);
        return Ok(());
    }
    let file = path(dir);
    let lost = || format!("the recovery words of {} were not kept", user.grouped());
    let _edit = dir.edit(FILE).with_context(lost)?;
    let before = Zeroizing::new(dir.read_private(&file).with_context(lost)?.unwrap_or_default());
    let after = Zeroizing::new(format!("{}# {user}\n{words}\n", *before));
    dir.write_private(&file, &after).with_context(lost)?;
    say(&format!(
        "The 24 recovery words of this number are in {}: write them on paper and delete the file.",
        file.display()
    ));
    Ok(())
}

/// Says so while words are still lying about.
pub(super) fn remind(dir: &DataDir) {
    let file = path(dir);
    if file.exists() {
        say_bold(&format!("Recovery words are still in {}: write them on paper and delete the file.", file.display()));
    }
}

fn show(words: &str) {
    say_bold("Write these 24 words on paper. They bring your number back on an empty machine, and whoever has them");
    say_bold("has your number. They are shown this once and kept nowhere:");
    let words: Vec<&str> = words.split_whitespace().collect();
    for (row, chunk) in words.chunks(6).enumerate() {
        let line: Vec<String> =
            chunk.iter().enumerate().map(|(i, w)| format!("{:>2} {w:<9}", row * 6 + i + 1)).collect();
        say(&format!("    {}", line.join(" ")));
    }
}
