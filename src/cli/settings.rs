//! `config check|show`.

use super::words::{print, print_json, say};
use super::{Common, Outcome};
use crate::config::ChosenOverlay;
use clap::Subcommand;

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Read the settings and say what is wrong with them
    Check,
    /// Print the settings in force
    Show,
}

pub(super) fn config(common: &Common, command: ConfigCommand) -> anyhow::Result<Outcome> {
    let settings = common.settings(None)?;
    match command {
        ConfigCommand::Check => {
            ChosenOverlay::choose(&settings.overlay)?;
            let (file, required) = common.settings_file()?;
            if required || file.exists() {
                say(&format!("{} is good", file.display()));
            } else {
                say(&format!("there is no {}: the defaults are in force", file.display()));
            }
        }
        ConfigCommand::Show if common.json => print_json(&settings)?,
        ConfigCommand::Show => print(settings.to_toml().trim_end()),
    }
    Ok(Outcome::Done)
}
