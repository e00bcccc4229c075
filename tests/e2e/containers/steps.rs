//! What happens to the containers.

use futures_util::future::join_all;
use std::fs;
use std::time::Duration;
use tickwire_testkit::eventually;

use super::clients::{Front, Publisher};
use super::engine::Engine;
use super::{EVENTS, SETTLE};

/// How long the loss of a network may stay unnoticed.
const NOTICED: Duration = Duration::from_secs(60);

/// One step.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Adds gateways up to this number.
    ScaleUp(usize),
    /// Stops and removes gateways down to this number.
    ScaleDown(usize),
    /// Ends a gateway by SIGKILL, and starts it again.
    KillGateway,
    /// Stops a gateway, and starts it again.
    StopGateway,
    /// Stops a router, and starts it again.
    StopRouter,
    /// Takes a gateway off the network of NATS until it has noticed, and puts it back.
    CutOffGateway,
    /// Ends a NATS server by SIGKILL, and starts it again.
    KillNats,
    /// Changes the secret of tokens. Once: the tokens of the clients are of the first one.
    ChangeTokenSecret,
}

impl Step {
    /// The steps of the short form.
    pub(super) const SHORT: &[Self] = &[
        Self::ScaleUp(5),
        Self::ChangeTokenSecret,
        Self::KillGateway,
        Self::StopRouter,
        Self::CutOffGateway,
        Self::KillNats,
        Self::ScaleDown(2),
    ];

    /// All steps.
    pub(super) const ALL: &[Self] = &[
        Self::StopGateway,
        Self::ScaleUp(5),
        Self::ChangeTokenSecret,
        Self::KillGateway,
        Self::StopRouter,
        Self::KillNats,
        Self::CutOffGateway,
        Self::ScaleDown(2),
        Self::KillGateway,
        Self::ScaleUp(4),
        Self::KillNats,
        Self::StopRouter,
        Self::StopGateway,
        Self::CutOffGateway,
        Self::ScaleDown(2),
    ];

    /// Takes the step while events are published.
    pub(super) async fn take(self, engine: &Engine, publisher: &Publisher) {
        match self {
            Self::ScaleUp(count) => engine.scale_up("gateway", count).await,
            Self::ScaleDown(count) => {
                let names = engine.names("gateway").await;
                let surplus = names.get(count..).unwrap_or_default();
                join_all(surplus.iter().map(|name| engine.stop(name))).await;
                for name in surplus {
                    engine.run(&["rm", name]).await;
                }
            }
            Self::KillGateway => kill(engine, publisher, "gateway").await,
            Self::KillNats => kill(engine, publisher, "nats-2").await,
            Self::ChangeTokenSecret => change_token_secret(engine).await,
            Self::StopGateway => stop(engine, publisher, "gateway").await,
            Self::StopRouter => stop(engine, publisher, "router").await,
            Self::CutOffGateway => {
                let name = first(engine, "gateway").await;
                let network = engine.network("bus");
                engine.run(&["network", "disconnect", &network, &name]).await;
                eventually("the gateway has noticed it", NOTICED, async || {
                    (!engine.is_healthy(&name).await).then_some(())
                })
                .await;
                publisher.more(EVENTS).await;
                engine.run(&["network", "connect", "--alias", "gateway", &network, &name]).await;
            }
        }
    }
}

/// As docs/operations.md has it: into the files, since the containers have the files themselves.
async fn change_token_secret(engine: &Engine) {
    let secrets = engine.home.join("secrets");
    let present = fs::read(secrets.join("jwt-secret")).unwrap();
    fs::write(secrets.join("jwt-former-secret"), present).unwrap();
    fs::write(secrets.join("jwt-secret"), "another secret of tokens, with more than 32 bytes").unwrap();
    let front = Front::of(engine).await;
    for name in engine.names("gateway").await {
        let id = engine.host_name(&name).await;
        eventually(&format!("{name} takes tokens of the new secret"), SETTLE, async || {
            (front.gateway_at(&id).await == id).then_some(())
        })
        .await;
    }
}

async fn first(engine: &Engine, service: &str) -> String {
    engine.names(service).await.into_iter().next().unwrap()
}

async fn kill(engine: &Engine, publisher: &Publisher, service: &str) {
    let name = first(engine, service).await;
    engine.run(&["kill", "--signal", "KILL", &name]).await;
    publisher.more(EVENTS).await;
    engine.run(&["start", &name]).await;
}

async fn stop(engine: &Engine, publisher: &Publisher, service: &str) {
    let name = first(engine, service).await;
    engine.stop(&name).await;
    publisher.more(EVENTS).await;
    engine.run(&["start", &name]).await;
}
