//! What people read: progress while something takes time, words on stderr, the log.

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::IsTerminal;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// A line for people.
pub fn say(text: &str) {
    anstream::eprintln!("{text}");
}

/// A line for people that matters.
pub fn say_bold(text: &str) {
    let bold = anstyle::Style::new().bold();
    anstream::eprintln!("{bold}{text}{bold:#}");
}

/// One JSON object on one line of stdout.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    anstream::println!("{}", serde_json::to_string(value)?);
    Ok(())
}

/// A line of data on stdout.
pub fn print(text: &str) {
    anstream::println!("{text}");
}

/// What libraries say for each stream of a peer that misbehaves: a stranger could fill the disk with it. Counters tell.
/// Who wants to read it names the library in the filter.
const QUIET: &str = "libp2p_kad=error,libp2p_identify=error,libp2p_request_response=error,libp2p_yamux=error,\
    libp2p_quic=error,multistream_select=error,yamux=off";

/// Starts the log on stderr.
///
/// # Errors
/// When the filter cannot be read.
pub fn start_log(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(format!("{QUIET},{filter}"))
        .map_err(|e| anyhow::anyhow!("log filter `{filter}`: {e}"))?;
    // The SIP stack writes whole messages, keys included, at INFO: never below warnings, whatever is asked for.
    let filter = filter.add_directive("rsipstack=warn".parse()?);
    // Already started (several nodes in one test): the first one stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    Ok(())
}

/// A moving line on a terminal, plain lines elsewhere, nothing when quiet.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    last: String,
}

impl Progress {
    pub fn start(text: &str, quiet: bool) -> Self {
        let on_terminal = !quiet && std::io::stderr().is_terminal();
        let bar = on_terminal.then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}");
            let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        let mut progress = Self { bar, quiet, last: String::new() };
        progress.update(text);
        progress
    }

    pub fn update(&mut self, text: &str) {
        if self.quiet || self.last == text {
            return;
        }
        text.clone_into(&mut self.last);
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => say(text),
        }
    }

    pub fn end(self, text: &str) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        if !self.quiet && self.last != text {
            say(text);
        }
    }
}

/// The user or the system asks the process to end. Whoever starts something that must be stopped in order listens
/// first: a request that comes in between is kept.
pub struct StopRequest {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 2],
}

impl StopRequest {
    /// # Errors
    /// When the system takes no handler.
    pub fn listen() -> anyhow::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self { signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?] })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Ends with the next request. Cancel safe.
    pub async fn asked(&mut self) {
        #[cfg(unix)]
        {
            let [interrupt, terminate] = &mut self.signals;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        #[cfg(not(unix))]
        {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        let read = |filter: &str| EnvFilter::builder().parse(format!("{QUIET},{filter}")).unwrap().to_string();
        assert!(read("").contains("yamux=off"));
        assert!(read("debug").contains("libp2p_kad=error"));
        let named = read("info,libp2p_kad=trace");
        assert!(named.contains("libp2p_kad=trace") && !named.contains("libp2p_kad=error"), "{named}");
    }
}
