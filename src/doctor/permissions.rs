//! Checks whether the configured user has the permissions of a role, and no others. It tries them, since only the
//! server knows them; no try has an effect.

use async_nats::header::{HeaderMap, NATS_EXPECTED_STREAM};
use tickwire_node::config::Config;
use tickwire_node::names;
use tickwire_node::nats::{Nats, NatsError};

use super::needs::{self, DoctorRole, NOBODY, RoleSubjects};
use super::{CheckFinding, Verdict};

/// How many subjects are tried before the answers are read: the client keeps some refusals only until then.
const TOGETHER: usize = 32;

/// Tries the permissions of a role, with the role's own inboxes: a line for each that is missing or too much.
pub(super) async fn of(role: DoctorRole, config: &Config) -> Vec<CheckFinding> {
    let what = format!("may be {}", role.with_article());
    match tried(role, config).await {
        Ok(result) => result.findings(role, &what),
        Err(error) => vec![CheckFinding::new(Verdict::Fail, what, error.to_string())],
    }
}

/// What was tried, and what of it the server has refused.
struct TriedSubjects {
    count: usize,
    /// What the role needs and may not do, as `publish to "x"`.
    missing: Vec<String>,
    /// What only others need and this user may do.
    excess: Vec<String>,
    /// How much of that there is.
    of_others: usize,
}

impl TriedSubjects {
    fn findings(self, role: DoctorRole, what: &str) -> Vec<CheckFinding> {
        let name = role.as_str();
        let finding = |verdict, found: String| CheckFinding::new(verdict, what, found);
        let mut findings: Vec<CheckFinding> = self
            .missing
            .iter()
            .map(|act| {
                finding(Verdict::Fail, format!("may not {act}: allow it, as deploy/nats/roles/{name}.conf does"))
            })
            .collect();
        if findings.is_empty() {
            let subjects = if self.count == 1 { "subject" } else { "subjects" };
            findings.push(finding(Verdict::Ok, format!("{} {subjects} tried", self.count)));
        }
        if self.excess.len() == self.of_others {
            let found = "this user may do everything: docs/deploy.md (Permissions in NATS) has a user for each role";
            findings.push(finding(Verdict::Note, found.to_owned()));
        } else {
            let role = role.with_article();
            let excess = self.excess.iter().map(|act| format!("may {act}, which {role} does not need"));
            findings.extend(excess.map(|found| finding(Verdict::Note, found)));
        }
        findings
    }
}

/// Why the permissions of a role were not tried.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// Without its inboxes a role gets no answers.
    #[error(
        "not tried: this user gets no answers as {role} ({denied}); if it has the permissions of another role, name \
         that by --role, else allow these inboxes, as deploy/nats/roles does"
    )]
    NoInboxes { role: &'static str, denied: String },
}

async fn tried(role: DoctorRole, config: &Config) -> Result<TriedSubjects, TryError> {
    // A gateway may have a user that names it.
    let me = config.node.id.as_deref().unwrap_or(NOBODY);
    let nats = Nats::connect(&config.nats, role.inboxes(), me).await?;
    let stream = &config.stream.name;
    let (needed, of_others) = (needs::of(role, &nats, me, stream), needs::of_others(role, &nats, stream));
    let needed = acts(&nats, &needed).await?;
    let others = acts(&nats, &of_others).await?;
    let refusals = nats.refusals().await?;
    let is_denied = |act: &Act| refusals.iter().any(|refusal| act.is_in(refusal, &nats));
    let missing = needed.iter().filter(|act| is_denied(act)).map(Act::to_text).collect();
    let excess = others.iter().filter(|act| !is_denied(act)).map(Act::to_text).collect();
    let inbox = format!("Subscription to \"{}.", names::inbox(role.inboxes(), me));
    if let Some(denied) = refusals.iter().find(|refusal| refusal.contains(&inbox)) {
        return Err(TryError::NoInboxes { role: role.with_article(), denied: denied.clone() });
    }
    nats.close().await?;
    Ok(TriedSubjects { count: needed.len(), missing, excess, of_others: others.len() })
}

/// One try.
struct Act {
    is_publish: bool,
    subject: String,
}

impl Act {
    fn to_text(&self) -> String {
        format!("{} to \"{}\"", if self.is_publish { "publish" } else { "subscribe" }, self.subject)
    }

    /// Whether a refusal is about this. The server of a domain names the subject without the domain.
    fn is_in(&self, refusal: &str, nats: &Nats) -> bool {
        let direction = if self.is_publish { "Publish" } else { "Subscription" };
        let plain = self
            .subject
            .strip_prefix(&nats.api(""))
            .map(|request| if request.starts_with("$KV.") { request.to_owned() } else { format!("$JS.API.{request}") });
        let is_named = |subject: &str| refusal.contains(&format!("{direction} to \"{subject}\""));
        is_named(&self.subject) || plain.is_some_and(|plain| is_named(&plain))
    }
}

/// Does everything, and waits until the server has handled it.
async fn acts(nats: &Nats, subjects: &RoleSubjects) -> Result<Vec<Act>, NatsError> {
    let failed = |error: &dyn std::fmt::Display| NatsError::NoAnswer { reason: error.to_string() };
    let mut acts = Vec::new();
    let mut subscriptions = Vec::new();
    for (subject, group) in &subjects.subscribes {
        let subscribed = match group {
            Some(group) => nats.client.queue_subscribe(subject.clone(), (*group).to_owned()).await,
            None => nats.client.subscribe(subject.clone()).await,
        };
        subscriptions.push(subscribed.map_err(|error| failed(&error))?);
        acts.push(Act { is_publish: false, subject: subject.clone() });
    }
    // They end at once: what they receive is of no interest.
    subscriptions.clear();
    // No stream has this name: the server checks the permission, then the stream refuses the message. And no request to
    // JetStream has this text, which is no JSON.
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_STREAM, NOBODY);
    for subjects in subjects.publishes.chunks(TOGETHER) {
        for subject in subjects {
            let published = nats.client.publish_with_headers(subject.clone(), headers.clone(), "{".into()).await;
            published.map_err(|error| failed(&error))?;
            acts.push(Act { is_publish: true, subject: subject.clone() });
        }
        // Its result counts when everything was tried.
        nats.refusals().await.ok();
    }
    Ok(acts)
}
