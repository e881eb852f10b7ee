//! The command line. Data goes to stdout, words to stderr, `--json` is for machines. Exit: 0 done, 1 no (a call that
//! nobody answered, a user who is not online), 2 broken (with one line that says what and what to do).

use crate::config::{Flags, Listen, Role, Serve, Settings};
use crate::node::dir::DataDir;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

mod call;
mod contacts;
mod demo;
mod doctor;
mod first;
mod id;
mod line;
mod local;
mod phone;
mod recovery;
mod run;
mod settings;
mod status;
mod words;

/// A telephone system with nobody in the middle.
///
/// Without a command: starts a desktop node. On first use it makes your number and a SIP account for your softphone.
#[derive(Parser)]
#[command(name = "peerline", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Understood before and after every command.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Common options")]
struct Common {
    /// Where keys, accounts and the store are kept [default: the platform's data directory]
    #[arg(long, global = true, value_name = "DIR", env = "PEERLINE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Settings file [default: peerline.toml in the data directory]
    #[arg(long, global = true, value_name = "FILE", env = "PEERLINE_CONFIG")]
    config: Option<PathBuf>,
    /// Listen here (multiaddr; port 0 is the port kept for this installation). May be repeated
    #[arg(long, global = true, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// Join through this node (multiaddr with /p2p/..., or /dnsaddr/DOMAIN for a list in the DNS). May be repeated
    #[arg(long, global = true, value_name = "MULTIADDR")]
    bootstrap: Vec<String>,
    /// Others reach this node here (port forwarding). May be repeated
    #[arg(long, global = true, value_name = "MULTIADDR")]
    external: Vec<String>,
    /// Where phones register, UDP and TCP: ADDRESS:PORT or off
    #[arg(long, global = true, value_name = "ADDR")]
    sip: Option<Listen>,
    /// The local API: ADDRESS:PORT (loopback) or off
    #[arg(long, global = true, value_name = "ADDR")]
    api: Option<Listen>,
    /// Do not look for nodes on the same network
    #[arg(long, global = true)]
    no_mdns: bool,
    /// Serve the overlay's records to others
    #[arg(long, global = true, value_name = "WHEN", value_enum)]
    server: Option<Serve>,
    /// The overlay to join: a built-in name or an overlay file
    #[arg(long, global = true, value_name = "NAME|FILE", conflicts_with = "test_overlay")]
    overlay: Option<String>,
    /// Join a private overlay made of this word (any addresses, for tests)
    #[arg(long, global = true, value_name = "WORD")]
    test_overlay: Option<String>,
    /// Protect the identity by file mode alone, and ask nothing
    #[arg(long, global = true)]
    no_passphrase: bool,
    /// Read the passphrase of the identity from this file
    #[arg(long, global = true, value_name = "FILE", env = "PEERLINE_PASSPHRASE_FILE")]
    passphrase_file: Option<PathBuf>,
    /// For machines: one JSON object on stdout
    #[arg(long, global = true)]
    json: bool,
    /// What to log on stderr: error, warn, info, debug, trace, or a filter per module
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a public node: bootstrap, storage, and voice for those who have no other path; no phones
    Relay,
    /// Run a registrar for the phones of an office
    Gateway,
    /// A whole overlay on this machine: ten nodes, two users, a test call with verified tones
    Demo(demo::DemoArgs),
    /// Your number
    #[command(subcommand)]
    Id(id::IdCommand),
    /// SIP accounts for phones
    #[command(subcommand)]
    Phone(phone::PhoneCommand),
    /// Short names for numbers
    #[command(subcommand)]
    Contacts(contacts::ContactsCommand),
    /// Place a test call without a phone
    Call(call::CallArgs),
    /// Answer calls without a phone
    Answer(call::AnswerArgs),
    /// Find where a user can be reached
    Lookup {
        /// A number, an address, a contact or an extension
        who: String,
    },
    /// What the running node is doing
    Status {
        /// Who it knows in the overlay, and what it has seen them do
        #[arg(long)]
        peers: bool,
    },
    /// What this network is, which paths work, and what to do
    Doctor,
    /// The settings in force
    #[command(subcommand)]
    Config(settings::ConfigCommand),
}

/// How a command ended, when nothing broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    No,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return broken(&anyhow::Error::new(error).context("the runtime does not start")),
    };
    let outcome = runtime.block_on(dispatch(cli));
    // A blocked reader of stdin or a slow name lookup must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Err(error) => broken(&error),
    }
}

fn broken(error: &anyhow::Error) -> ExitCode {
    anstream::eprintln!("peerline: {}", on_one_line(error));
    ExitCode::from(2)
}

/// The chain of causes, each once: many errors tell their cause themselves.
fn on_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| cause.to_string().replace('\n', " ")) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

async fn dispatch(cli: Cli) -> anyhow::Result<Outcome> {
    let common = cli.common;
    match cli.command {
        None => run::run(&common, None).await,
        Some(Command::Relay) => run::run(&common, Some(Role::Relay)).await,
        Some(Command::Gateway) => run::run(&common, Some(Role::Gateway)).await,
        Some(Command::Demo(args)) => demo::demo(&common, &args).await,
        Some(Command::Id(command)) => id::id(&common, command),
        Some(Command::Phone(command)) => phone::phone(&common, command),
        Some(Command::Contacts(command)) => contacts::contacts(&common, command),
        Some(Command::Call(args)) => call::call(&common, args).await,
        Some(Command::Answer(args)) => call::answer(&common, args).await,
        Some(Command::Lookup { who }) => status::lookup(&common, &who).await,
        Some(Command::Status { peers: false }) => status::status(&common).await,
        Some(Command::Status { peers: true }) => status::peers(&common).await,
        Some(Command::Doctor) => doctor::doctor(&common).await,
        Some(Command::Config(command)) => settings::config(&common, command),
    }
}

impl Common {
    /// The data directory, made if missing.
    fn dir(&self) -> anyhow::Result<DataDir> {
        Ok(DataDir::open(&self.dir_path()?)?)
    }

    fn dir_path(&self) -> anyhow::Result<PathBuf> {
        match &self.data_dir {
            Some(path) => Ok(path.clone()),
            None => Ok(DataDir::default_path()?),
        }
    }

    /// The settings file: the named one must exist, the usual one need not.
    fn settings_file(&self) -> anyhow::Result<(PathBuf, bool)> {
        match &self.config {
            Some(path) => Ok((path.clone(), true)),
            None => Ok((self.dir_path()?.join("peerline.toml"), false)),
        }
    }

    fn settings(&self, role: Option<Role>) -> anyhow::Result<Settings> {
        let (file, required) = self.settings_file()?;
        Settings::load(&file, required, &self.flags(role)).map_err(Into::into)
    }

    fn flags(&self, role: Option<Role>) -> Flags {
        Flags {
            role,
            listen: self.listen.clone(),
            bootstrap: self.bootstrap.clone(),
            external: self.external.clone(),
            sip: self.sip,
            api: self.api,
            no_mdns: self.no_mdns,
            serve: self.server,
            overlay: self.overlay.clone(),
            test_overlay: self.test_overlay.clone(),
            log: self.log.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let told = anyhow::anyhow!("no room").context("it failed: no room; make some").context("the copy");
        assert_eq!(on_one_line(&told), "the copy: it failed: no room; make some");
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn common_options_go_before_and_after_the_command() {
        for line in [&["peerline", "--json", "status"], &["peerline", "status", "--json"]] {
            assert!(Cli::parse_from(line.iter()).common.json);
        }
    }
}
