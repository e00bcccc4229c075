//! What the simulators share: how many runs they make, and from which seed; random plans of which the shortest that fails
//! is stored; and the trace of a stored plan.

use std::cell::Cell;
use std::env;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestError, TestRunner};
use serde::Serialize;
use serde::de::DeserializeOwned;

thread_local! {
    static IS_TRACED: Cell<bool> = const { Cell::new(false) };
}

/// The plan of a run of a simulator.
pub trait SimPlan: Clone + Debug + Serialize + DeserializeOwned {
    /// How the file names of stored plans begin. Each simulator has its own.
    const PREFIX: &'static str;

    /// The seed of the run.
    fn seed(&self) -> u64;

    /// Stores this plan, and returns the path of its file.
    ///
    /// # Panics
    /// If it cannot be stored.
    fn store(&self) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/simulator");
        fs::create_dir_all(&folder).expect("a folder for plans");
        let path = folder.join(format!("{}-{:016x}.json", Self::PREFIX, self.seed()));
        fs::write(&path, serde_json::to_vec_pretty(self).expect("a plan is JSON")).expect("a file for a plan");
        path.canonicalize().expect("the file was written")
    }

    /// Reads a plan that was stored; `None` if the file is of another simulator.
    ///
    /// # Panics
    /// If it cannot be read.
    #[must_use]
    fn read(path: &Path) -> Option<Self> {
        path.file_name()?.to_str()?.strip_prefix(Self::PREFIX)?.strip_prefix('-')?;
        let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Some(serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }
}

/// Runs so many random plans, which follow from the seed.
///
/// # Panics
/// If a plan fails, with the shortest that does, which is stored.
pub fn run_plans<P: SimPlan>(seed: u64, runs: u32, plans: &impl Strategy<Value = P>, run: impl Fn(&P)) {
    let config = Config {
        cases: runs,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let (count, is_running, has_failed) = (Cell::new(0), Cell::new(false), Cell::new(false));
    let result = TestRunner::new(config).run(plans, |plan| {
        // A run that fails does not return. Those after it shorten its plan.
        has_failed.set(has_failed.get() || is_running.replace(true));
        count.set(count.get() + u32::from(!has_failed.get()));
        run(&plan);
        is_running.set(false);
        Ok(())
    });
    if let Err(failure) = result {
        if let TestError::Fail(_, plan) = &failure {
            let path = plan.store();
            println!("`make sim-trace PLAN={}` shows what happens in the shortest plan that fails", path.display());
        }
        panic!("run {} of seed {seed}: {failure}", count.get());
    }
}

/// Runs the plan that `make sim-trace` names with its trace, if it is one of this simulator.
///
/// # Panics
/// If the plan fails, or cannot be read.
pub fn trace_plan<P: SimPlan>(run: impl Fn(&P)) {
    let path = env::var_os("TICKWIRE_SIM_PLAN").expect("TICKWIRE_SIM_PLAN names the plan's file");
    if let Some(plan) = P::read(path.as_ref()) {
        IS_TRACED.set(true);
        run(&plan);
    }
}

/// Prints a line with the time in milliseconds, if the plan of this thread is traced.
pub fn trace(now: u64, text: impl FnOnce() -> String) {
    if IS_TRACED.get() {
        println!("{now:>8} {}", text());
    }
}

/// How many runs to make; `usual` if the environment names no number.
#[must_use]
pub fn runs(usual: u32) -> u32 {
    number("TICKWIRE_SIM_RUNS").unwrap_or(usual)
}

/// The seed of the first run; `usual` if the environment names none. The others follow from it.
#[must_use]
pub fn seed(usual: u64) -> u64 {
    number("PROPTEST_RNG_SEED").unwrap_or(usual)
}

fn number<N: std::str::FromStr>(variable: &str) -> Option<N> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is no number: {value:?}")))
}
