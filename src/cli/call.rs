//! `call` and `answer`: a headless phone on the running node, for scripts and for trying things out.

use super::line::{Audio, CallReport, Line};
use super::local::Reach;
use super::words::{StopRequest, print, print_json, say};
use super::{Common, Outcome, first};
use crate::directory::PhoneAccount;
use crate::media::audio::Source;
use crate::node::book::Book;
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Args)]
pub(super) struct AudioArgs {
    /// Send a sine of so many hertz (20 to 3400)
    #[arg(long, value_name = "HZ", value_parser = hertz, conflicts_with = "file")]
    tone: Option<f32>,
    /// Send a WAV file, repeated
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Keep what is heard as a WAV file
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// The account to use [default: the first one]
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
}

#[derive(Args)]
pub(super) struct CallArgs {
    /// A number, an address, a contact, an extension or `echo`
    who: String,
    #[command(flatten)]
    audio: AudioArgs,
    /// Hang up so long after the answer
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5s")]
    duration: Duration,
}

#[derive(Args)]
pub(super) struct AnswerArgs {
    #[command(flatten)]
    audio: AudioArgs,
    /// Hang up so long after the answer [default: the caller hangs up]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Ring so long before answering
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "0s")]
    after: Duration,
    /// End after so many calls [default: go on]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

pub(super) async fn call(common: &Common, args: CallArgs) -> anyhow::Result<Outcome> {
    let audio = args.audio.audio(Some(args.duration))?;
    let (reach, mut line) = open(common, &args.audio).await?;
    // From here on there is something to end in order.
    let mut stop = StopRequest::listen()?;
    let report = line.call(&args.who, &audio, stop.asked()).await;
    line.close().await;
    reach.end().await;
    let report = report?;
    tell(common, &report)?;
    Ok(if report.answered { Outcome::Done } else { Outcome::No })
}

pub(super) async fn answer(common: &Common, args: AnswerArgs) -> anyhow::Result<Outcome> {
    let audio = args.audio.audio(args.duration)?;
    let (reach, mut line) = open(common, &args.audio).await?;
    // From here on there is something to end in order.
    let mut stop = StopRequest::listen()?;
    if !common.json {
        say("ready: calls are answered by themselves; Ctrl-C ends");
    }
    let mut calls = 0;
    let ended = loop {
        if args.count.is_some_and(|count| calls >= count) {
            break Ok(Outcome::Done);
        }
        match line.answer(&audio, args.after, stop.asked()).await {
            Ok(Some(report)) => {
                calls += 1;
                tell(common, &report)?;
            }
            Ok(None) => break Ok(if args.count.is_some() { Outcome::No } else { Outcome::Done }),
            Err(error) => break Err(error.into()),
        }
    };
    line.close().await;
    reach.end().await;
    ended
}

async fn open(common: &Common, args: &AudioArgs) -> anyhow::Result<(Reach, Line)> {
    let dir = common.dir()?;
    let account = pick(Book::new(&dir).phones()?.into_values().collect(), args.account.as_deref())?;
    let reach = Reach::find(common, &dir).await?;
    let registered = match reach.sip() {
        Ok(server) => Line::register(server, &account.name, &account.password).await.map_err(Into::into),
        Err(error) => Err(error),
    };
    match registered {
        Ok(line) => Ok((reach, line)),
        Err(error) => {
            reach.end().await;
            Err(error)
        }
    }
}

/// The named account; else the desktop's; else the first.
fn pick(accounts: Vec<PhoneAccount>, name: Option<&str>) -> anyhow::Result<PhoneAccount> {
    let wanted = match name {
        Some(name) => accounts.into_iter().find(|a| a.name == name).with_context(|| format!("no account `{name}`"))?,
        None => {
            let at = accounts.iter().position(|a| a.name == first::DESKTOP_ACCOUNT).unwrap_or(0);
            accounts.into_iter().nth(at).context("no phone account here: `peerline phone add NAME` makes one")?
        }
    };
    Ok(wanted)
}

fn tell(common: &Common, report: &CallReport) -> anyhow::Result<()> {
    if common.json {
        return print_json(report);
    }
    print(&format!("{}: {}", report.who, report.in_words()));
    Ok(())
}

impl AudioArgs {
    fn audio(&self, duration: Option<Duration>) -> anyhow::Result<Audio> {
        let source = match (self.tone, &self.file) {
            (Some(hertz), _) => Source::Tone(hertz),
            (None, Some(file)) => {
                std::fs::metadata(file).with_context(|| format!("{}", file.display()))?;
                Source::File(file.clone())
            }
            (None, None) => Source::Silence,
        };
        Ok(Audio { source, record: self.record.clone(), duration })
    }
}

fn hertz(text: &str) -> Result<f32, String> {
    let hertz: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (20.0..=3_400.0).contains(&hertz) { Ok(hertz) } else { Err("a telephone carries 20 to 3400 Hz".to_owned()) }
}
