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
    /// The same of what is optional, each with the condition on which the role does it, and how much there is of that.
    missing_optional: Vec<(String, &'static str)>,
    optional: usize,
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
        if role.needs_any_optional() && self.missing_optional.len() == self.optional {
            let found = format!(
                "may publish no kind: allow \"{}\" or others, as deploy/nats/roles/{name}.conf does",
                names::source("pattern", "*")
            );
            findings.push(finding(Verdict::Fail, found));
        }
        if findings.is_empty() {
            let subjects = if self.count == 1 { "subject" } else { "subjects" };
            findings.push(finding(Verdict::Ok, format!("{} {subjects} tried", self.count)));
        }
        findings.extend(
            self.missing_optional
                .iter()
                .map(|(act, condition)| finding(Verdict::Note, format!("may not {act}: allow it if {condition}"))),
        );
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
    let needed = needs::of(role, &nats, me, stream, &config.events.taken());
    let of_others = needs::of_others(role, &nats, stream);
    let acts_needed = acts(&nats, &needed).await?;
    let others = acts(&nats, &of_others).await?;
    let refusals = nats.refusals().await?;
    let denied = |act: &Act| refusals.iter().find_map(|refusal| act.denied_in(refusal, &nats));
    let condition = |act: &Act| {
        let optional = needed.optional.iter().find(|(subject, _)| act.is_publish && *subject == act.subject);
        optional.map(|(_, condition)| *condition)
    };
    let (mut missing, mut missing_optional) = (Vec::new(), Vec::new());
    for act in &acts_needed {
        match (denied(act), condition(act)) {
            (Some(text), Some(condition)) => missing_optional.push((text, condition)),
            (Some(text), None) => missing.push(text),
            (None, _) => {}
        }
    }
    let excess = others.iter().filter(|act| denied(act).is_none()).map(|act| act.to_text(&act.subject)).collect();
    let inbox = format!("Subscription to \"{}.", names::inbox(role.inboxes(), me));
    if let Some(denied) = refusals.iter().find(|refusal| refusal.contains(&inbox)) {
        return Err(TryError::NoInboxes { role: role.with_article(), denied: denied.clone() });
    }
    nats.close().await?;
    Ok(TriedSubjects {
        count: acts_needed.len(),
        missing,
        missing_optional,
        optional: needed.optional.len(),
        excess,
        of_others: others.len(),
    })
}

/// One try.
struct Act {
    is_publish: bool,
    subject: String,
}

impl Act {
    /// This with a subject, as text.
    fn to_text(&self, subject: &str) -> String {
        format!("{} to \"{subject}\"", if self.is_publish { "publish" } else { "subscribe" })
    }

    /// The act that the refusal denies, as text, if it is this one. A server of a domain compares permissions with the
    /// subject without the domain, and names that: it is the one to allow.
    fn denied_in(&self, refusal: &str, nats: &Nats) -> Option<String> {
        let direction = if self.is_publish { "Publish" } else { "Subscription" };
        let plain = self
            .subject
            .strip_prefix(&nats.api(""))
            .map(|request| if request.starts_with("$KV.") { request.to_owned() } else { format!("$JS.API.{request}") });
        let is_named = |subject: &str| refusal.contains(&format!("{direction} to \"{subject}\""));
        let subject = [Some(&self.subject), plain.as_ref()].into_iter().flatten().find(|subject| is_named(subject))?;
        Some(self.to_text(subject))
    }
}

/// Does everything, and waits until the server has handled it.
async fn acts(nats: &Nats, subjects: &RoleSubjects) -> Result<Vec<Act>, NatsError> {
    let failed = |error: &dyn std::fmt::Display| NatsError::NoAnswer { reason: error.to_string() };
    let mut acts = Vec::new();
    for (subject, group) in &subjects.subscribes {
        let subscribed = match group {
            Some(group) => nats.client.queue_subscribe(subject.clone(), (*group).to_owned()).await,
            None => nats.client.subscribe(subject.clone()).await,
        };
        // It ends at once, since a message of a group that comes between is lost to the group.
        drop(subscribed.map_err(|error| failed(&error))?);
        acts.push(Act { is_publish: false, subject: subject.clone() });
    }
    // No stream has this name: the server checks the permission, then the stream refuses the message. And no request to
    // JetStream has this text, which is no JSON.
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_STREAM, NOBODY);
    let optional = subjects.optional.iter().map(|(subject, _)| subject);
    let publishes: Vec<&String> = subjects.publishes.iter().chain(optional).collect();
    for subjects in publishes.chunks(TOGETHER) {
        for subject in subjects {
            let subject = String::clone(subject);
            let published = nats.client.publish_with_headers(subject.clone(), headers.clone(), "{".into()).await;
            published.map_err(|error| failed(&error))?;
            acts.push(Act { is_publish: true, subject });
        }
        // Its result counts when everything was tried.
        nats.refusals().await.ok();
    }
    Ok(acts)
}
