//! Placeholder: `run` is written elsewhere.

/// Nothing yet.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("`run` is not in this build")
}
