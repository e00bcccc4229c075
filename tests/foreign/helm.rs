//! The Helm chart, rendered by Helm's own engine (`tools/chart.py`): what is checked in is current, the schemas of
//! Kubernetes accept it, and it says of nodes what the real binary does. `values` has the tests of values that are wrong
//! or unusual.

mod values;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;
use tempfile::TempDir;
use tickwire_node::config::{Config, LoadOptions, ProxyProtocol};
use tickwire_testkit::eventually;

use super::tools::{python, report};
use crate::cluster::Cluster;
use crate::node::{DEADLINE, get, tickwire};

/// Where containers find the configuration and the files of secrets.
const FOLDER: &str = "/etc/tickwire/";

/// The label with the role of a pod.
const COMPONENT: &str = "app.kubernetes.io/component";

/// The name of a pod.
const POD: &str = "tickwire-gateway-0";

/// How long a node may take after its grace until it has ended.
const AFTER_GRACE: Duration = Duration::from_secs(10);

/// Runs `tools/chart.py` with these arguments and this input, and returns what it prints.
fn chart(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(python("python"))
        .arg(root().join("tools/chart.py"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `chart.py show` prints.
static SHOWN: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(&chart(&["show"], "")).unwrap());

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of the variants, and their documents.
fn variants() -> impl Iterator<Item = (&'static String, &'static Vec<Value>)> {
    SHOWN["documents"].as_object().unwrap().iter().map(|(name, documents)| (name, documents.as_array().unwrap()))
}

/// The documents of one kind in a variant.
fn of_kind<'d>(documents: &'d [Value], kind: &str) -> Vec<&'d Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

/// The name of a document.
fn name(document: &Value) -> &str {
    document["metadata"]["name"].as_str().unwrap()
}

/// The items of a list; none if it is absent.
fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The nodes of a variant: the pod of each role.
fn pods(documents: &[Value]) -> [(&'static str, &Value); 2] {
    ["gateway", "router"].map(|role| {
        let is_of_role = |one: &&Value| one["spec"]["template"]["metadata"]["labels"][COMPONENT] == role;
        (role, &documents.iter().find(is_of_role).unwrap()["spec"]["template"]["spec"])
    })
}

/// The port of a container by its name.
fn port(pod: &Value, name: &str) -> Option<u64> {
    items(&pod["containers"][0]["ports"]).find(|port| port["name"] == name)?["containerPort"].as_u64()
}

/// The configuration of a node of a variant, as its container would find it in this folder.
struct PodConfiguration {
    file: String,
    variables: Vec<(String, String)>,
}

impl PodConfiguration {
    fn write(folder: &Path, documents: &[Value], pod: &Value) -> Self {
        let mut maps = of_kind(documents, "ConfigMap").into_iter();
        let text = maps.find_map(|map| map["data"]["tickwire.toml"].as_str()).unwrap();
        let file = folder.join("tickwire.toml");
        fs::write(&file, text).unwrap();
        let mut variables = Vec::new();
        for variable in items(&pod["containers"][0]["env"]) {
            let mut value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some(path) => {
                    assert_eq!((path, &variable["name"]), ("metadata.name", &json!("TICKWIRE_NODE__ID")));
                    POD.to_owned()
                }
                // Kubernetes puts the value of an earlier variable there.
                None => variable["value"].as_str().unwrap().replace("$(TICKWIRE_NODE__ID)", POD),
            };
            if let Some(path) = value.strip_prefix(FOLDER) {
                let secret = folder.join(path);
                assert!(is_mounted(pod, path), "no volume has {value}");
                fs::create_dir_all(secret.parent().unwrap()).unwrap();
                fs::write(&secret, "a secret of at least thirty-two bytes\n").unwrap();
                value = secret.to_str().unwrap().to_owned();
            }
            variables.push((variable["name"].as_str().unwrap().to_owned(), value));
        }
        Self { file: file.to_str().unwrap().to_owned(), variables }
    }

    /// Whether the binary accepts it, and what it prints.
    fn check(&self, role: &str) -> (Option<i32>, String) {
        let mut command = tickwire();
        command.args(["config", "check", "--config", &self.file, "--role", role]).envs(self.variables.iter().cloned());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    fn load(&self) -> Config {
        let file = Some(self.file.clone().into());
        Config::load(&LoadOptions { file, env: self.variables.clone(), sets: Vec::new() }).unwrap()
    }
}

/// Whether a container finds something at this path below [`FOLDER`]: in the folder of a mounted Secret, which must
/// have the key if it has only some.
fn is_mounted(pod: &Value, path: &str) -> bool {
    let (folder, key) = path.split_once('/').unwrap();
    let place = format!("{FOLDER}{folder}");
    let mount = items(&pod["containers"][0]["volumeMounts"]).find(|mount| mount["mountPath"] == *place);
    let volume = mount.and_then(|mount| items(&pod["volumes"]).find(|volume| volume["name"] == mount["name"]));
    volume.is_some_and(|volume| {
        let secret = &volume["secret"];
        secret["items"].is_null() || items(&secret["items"]).any(|item| item["path"] == key)
    })
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "PyPI has no Helm for this processor")]
fn what_is_rendered_is_current_and_valid() {
    assert_eq!(SHOWN["problems"], json!([]));
    for (path, content) in SHOWN["files"].as_object().unwrap() {
        let found = fs::read_to_string(root().join(path)).unwrap_or_default();
        assert!(*content == *found, "{path} is not current: run `make chart`");
    }
    for folder in ["deploy/helm/rendered", "deploy/helm/tickwire/files"] {
        for file in fs::read_dir(root().join(folder)).unwrap() {
            let path = file.unwrap().path();
            let path = path.strip_prefix(root()).unwrap().to_str().unwrap();
            let known = SHOWN["files"].as_object().unwrap().keys().any(|known| known.starts_with(path));
            assert!(known, "{path} comes from nothing: remove it");
        }
    }
    for copied in ["alerts.yml", "haproxy/haproxy.cfg"] {
        let path = format!("deploy/helm/tickwire/files/{copied}");
        assert!(SHOWN["files"][&path].is_string(), "{copied} is copied from nowhere");
    }
    let about = fs::read_to_string(root().join("deploy/helm/tickwire/Chart.yaml")).unwrap();
    assert!(about.contains(&format!("\nappVersion: {}\n", env!("CARGO_PKG_VERSION"))), "{about}");
    let documents: usize = variants().map(|(_, documents)| documents.len()).sum();
    report("helm chart", &format!("{documents} documents valid for Kubernetes"));
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "PyPI has no Helm for this processor")]
fn nodes_accept_the_configuration_and_its_numbers_are_those_of_the_pods() {
    for (variant, documents) in variants() {
        for (role, pod) in pods(documents) {
            let home = TempDir::with_prefix("tickwire-e2e-helm-").unwrap();
            let pod_configuration = PodConfiguration::write(home.path(), documents, pod);
            assert_eq!(pod_configuration.check(role), (Some(0), "ok\n".to_owned()), "{variant}: {role}");
            let config = pod_configuration.load();
            let container = &pod["containers"][0];
            assert_eq!(container["args"], json!([role, "--config", format!("{FOLDER}tickwire.toml")]));
            assert_eq!(config.node.id.as_deref(), Some(POD));
            assert_eq!(port(pod, "admin"), Some(u64::from(config.admin.listen.port())));
            assert!(config.admin.listen.ip().is_unspecified());
            let clients = (role == "gateway").then(|| u64::from(config.gateway.listen.port()));
            assert_eq!(port(pod, "clients"), clients);
            assert!(config.gateway.listen.ip().is_unspecified());
            // A pod is killed only after its hook, and when the node has had its grace.
            let sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap_or_default();
            let grace = Duration::from_secs(sleep) + config.node.shutdown_grace + AFTER_GRACE;
            assert_eq!(pod["terminationGracePeriodSeconds"], grace.as_secs(), "{variant}: {role}");
            assert!(config.gateway.drain_window + Duration::from_secs(5) < config.node.shutdown_grace);
            for scaler in of_kind(documents, "HorizontalPodAutoscaler") {
                let down = &scaler["spec"]["behavior"]["scaleDown"]["policies"];
                assert_eq!(down.as_array().unwrap().len(), 1, "{down}");
                assert_eq!((&down[0]["type"], &down[0]["value"]), (&json!("Pods"), &json!(1)));
                assert!(down[0]["periodSeconds"].as_u64().unwrap() > grace.as_secs());
                let sessions = scaler["spec"]["metrics"][0]["pods"]["target"]["averageValue"].as_str().unwrap();
                // The scaler lets gateways have a tenth more than its target. If one of three dies, the others have half more.
                assert!(
                    sessions.parse::<usize>().unwrap() * 11 * 3 <= config.gateway.max_sessions * 10 * 2,
                    "{sessions}"
                );
            }
        }
    }
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "PyPI has no Helm for this processor")]
fn pods_are_confined_and_only_gateways_are_in_services() {
    for (variant, documents) in variants() {
        let workloads = [of_kind(documents, "StatefulSet"), of_kind(documents, "Deployment")].concat();
        for workload in workloads {
            let (place, pod) = (format!("{variant}: {}", name(workload)), &workload["spec"]["template"]["spec"]);
            assert_eq!(pod["automountServiceAccountToken"], false, "{place}");
            assert_eq!(pod["enableServiceLinks"], false, "{place}");
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{place}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{place}");
            for container in items(&pod["containers"]) {
                let context = json!({
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                });
                assert_eq!(container["securityContext"], context, "{place}");
                assert!(container["resources"]["requests"]["memory"].is_string(), "{place}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{place}");
            }
        }
        for service in of_kind(documents, "Service") {
            let ports: Vec<_> = items(&service["spec"]["ports"]).map(|port| &port["targetPort"]).collect();
            let role = &service["spec"]["selector"][COMPONENT];
            let expected = match role.as_str().unwrap() {
                "gateway" => vec!["clients"],
                "balancer" => vec!["plain", "tls"],
                other => panic!("{variant}: a Service of {other}"),
            };
            assert_eq!(ports, expected, "{variant}: {}", name(service));
        }
        let budgets: BTreeSet<_> = of_kind(documents, "PodDisruptionBudget").into_iter().map(name).collect();
        assert!(budgets.is_superset(&BTreeSet::from(["tickwire-gateway", "tickwire-router"])), "{budgets:?}");
    }
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "PyPI has no Helm for this processor")]
fn the_balancer_speaks_to_gateways_as_their_configuration_says() {
    let documents = SHOWN["documents"]["balancer"].as_array().unwrap();
    let home = TempDir::with_prefix("tickwire-e2e-helm-").unwrap();
    let config = PodConfiguration::write(home.path(), documents, pods(documents)[0].1).load();
    let deployments = of_kind(documents, "Deployment");
    let balancer = deployments.into_iter().find(|one| name(one) == "tickwire-balancer").unwrap();
    let container = &balancer["spec"]["template"]["spec"]["containers"][0];
    let variables = &container["env"];
    let variable = |of: &str| items(variables).find(|one| one["name"] == of).map(|one| one["value"].clone());
    assert_eq!(config.gateway.proxy_protocol, ProxyProtocol::Required);
    assert_eq!(variable("LB_PROXY_PROTOCOL"), Some(json!("on")));
    assert_eq!(variable("LB_GATEWAY_PORT"), Some(json!(config.gateway.listen.port().to_string())));
    assert_eq!(variable("LB_ADMIN_PORT"), Some(json!(config.admin.listen.port().to_string())));
    // Connections that send parts of requests need the most memory, two descriptors and some 32 kB each.
    let descriptors = variable("LB_DESCRIPTORS").and_then(|text| text.as_str()?.parse::<u64>().ok()).unwrap();
    let limit = container["resources"]["limits"]["memory"].as_str().unwrap().strip_suffix("Gi").unwrap();
    assert!(descriptors / 2 * 32_000 + (256 << 20) < limit.parse::<u64>().unwrap() << 30, "{descriptors} {limit}");
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "PyPI has no Helm for this processor")]
fn every_pod_may_connect_where_the_values_say() {
    let documents = SHOWN["documents"]["balancer"].as_array().unwrap();
    for role in ["gateway", "router", "balancer"] {
        let policies = of_kind(documents, "NetworkPolicy");
        let policy = policies.into_iter().find(|policy| name(policy) == format!("tickwire-{role}")).unwrap();
        let ports: Vec<_> = items(&policy["spec"]["egress"])
            .filter(|rule| {
                rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == "openshift-dns"
            })
            .map(|rule| items(&rule["ports"]).map(|port| port["port"].as_u64().unwrap()).collect::<Vec<_>>())
            .collect();
        assert_eq!(ports, [[53, 53], [5353, 5353]], "{role}");
    }
}

/// Every probe of a container, by its name.
fn probes(pod: &Value) -> BTreeMap<&'static str, &Value> {
    let container = &pod["containers"][0];
    ["startupProbe", "livenessProbe", "readinessProbe"].map(|probe| (probe, &container[probe]["httpGet"])).into()
}

#[tokio::test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "PyPI has no Helm for this processor")]
async fn running_nodes_answer_the_probes_and_have_the_metrics_of_the_autoscaling() {
    let mut cluster = Cluster::start(1, 1).await;
    cluster.settled().await;
    let admins = [
        ("gateway", cluster.gateways[0].address("admin").await),
        ("router", cluster.routers[0].address("admin").await),
    ];
    for (variant, documents) in variants() {
        for ((role, pod), (of, admin)) in pods(documents).into_iter().zip(admins) {
            assert_eq!(role, of);
            for (probe, request) in probes(pod) {
                assert_eq!(request["port"], "admin");
                let what = format!("{variant}: {probe} of {role} succeeds");
                let path = request["path"].as_str().unwrap();
                eventually(&what, DEADLINE, async || (get(admin, path).await.0 == 200).then_some(())).await;
            }
            // A gateway that is not ready is not restarted: it still serves its clients.
            assert_eq!(probes(pod)["livenessProbe"]["path"], "/livez");
            assert_eq!(probes(pod)["readinessProbe"]["path"], "/readyz");
        }
    }
    let complete = SHOWN["documents"]["complete"].as_array().unwrap();
    let scaler = of_kind(complete, "HorizontalPodAutoscaler")[0];
    let wanted: Vec<_> = items(&scaler["spec"]["metrics"]).map(|metric| &metric["pods"]["metric"]["name"]).collect();
    let rules: Vec<_> = items(&SHOWN["adapter"]["rules"]["custom"]).collect();
    assert_eq!(rules.iter().map(|rule| &rule["name"]["as"]).collect::<Vec<_>>(), wanted);
    let (_, metrics) = get(admins[0].1, "/metrics").await;
    for rule in rules {
        let (series, _) = rule["seriesQuery"].as_str().unwrap().split_once('{').unwrap();
        assert!(metrics.contains(&format!("\n# TYPE {series} ")), "no node has {series}");
        assert_eq!(rule["name"]["matches"], format!("^{series}$"));
    }
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "PyPI has no Helm for this processor")]
fn what_prometheus_gets_is_the_file_of_alerts_for_the_job_of_this_cluster_alone() {
    let complete = SHOWN["documents"]["complete"].as_array().unwrap();
    let rules = of_kind(complete, "PrometheusRule")[0];
    assert_eq!(rules["apiVersion"], "monitoring.coreos.com/v1");
    let of_file = SHOWN["alerts"].to_string();
    let alerts = of_file.replace(r#"job=\"tickwire\""#, r#"job=\"tickwire/tickwire\""#);
    assert_ne!(alerts, of_file);
    assert_eq!(rules["spec"], serde_json::from_str::<Value>(&alerts).unwrap());
    assert!(!alerts.contains(r#"\"tickwire\""#), "an alert names the job in another way");
    let monitor = of_kind(complete, "PodMonitor")[0];
    assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["port"], "admin");
    assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["path"], "/metrics");
    let job = json!([{ "targetLabel": "job", "replacement": "tickwire/tickwire" }]);
    assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["relabelings"], job);
    for (role, kind) in [("gateway", "StatefulSet"), ("router", "Deployment")] {
        let labels = &of_kind(complete, kind)[0]["spec"]["template"]["metadata"]["labels"];
        assert_eq!((&labels["app.kubernetes.io/name"], &labels[COMPONENT]), (&json!("tickwire"), &json!(role)));
    }
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "PyPI has no Helm for this processor")]
fn grafana_gets_every_dashboard() {
    let documents = SHOWN["documents"]["dashboards"].as_array().unwrap();
    let maps = of_kind(documents, "ConfigMap");
    let map = maps.into_iter().find(|map| name(map) == "tickwire-dashboards").unwrap();
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let loaded = map["data"].as_object().unwrap();
    let copied = SHOWN["files"].as_object().unwrap().iter();
    let copied: BTreeMap<_, _> =
        copied.filter_map(|(path, text)| Some((path.split_once("/dashboards/")?.1, text))).collect();
    assert_eq!(loaded.iter().map(|(file, text)| (file.as_str(), text)).collect::<BTreeMap<_, _>>(), copied);
    assert!(!copied.is_empty());
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "PyPI has no Helm for this processor")]
fn the_values_for_nats_meet_the_requirements_of_nodes() {
    let (nats, config) = (&SHOWN["nats"]["config"], &SHOWN["documents"]["default"]);
    let home = TempDir::with_prefix("tickwire-e2e-helm-").unwrap();
    let documents = config.as_array().unwrap();
    let nodes = PodConfiguration::write(home.path(), documents, pods(documents)[1].1).load();
    assert_eq!(nats["cluster"]["replicas"], nodes.stream.replicas);
    assert_eq!(nats["merge"]["no_fast_producer_stall"], true);
    assert_eq!(nats["merge"]["max_payload"], "<< 1MB >>");
    assert!(nodes.stream.max_message <= 1 << 20);
    let size = nats["jetstream"]["fileStore"]["pvc"]["size"].as_str().unwrap().strip_suffix("Gi").unwrap();
    assert!(size.parse::<i64>().unwrap() << 30 >= 2 * nodes.stream.max_bytes);
}
