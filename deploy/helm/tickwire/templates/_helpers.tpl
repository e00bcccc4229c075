{{/* The name that every resource begins with. Pods are nodes, and a node's name has no dots. */}}
{{- define "tickwire.fullname" -}}
{{- $name := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-tickwire" .Release.Name) (contains "tickwire" .Release.Name)) -}}
{{- $name = regexReplaceAll "-+$" ($name | replace "." "-" | trunc 40) "" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "fullnameOverride: set a name with a letter first, then small letters, digits and - only: Kubernetes takes no Service whose name begins with %q" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* Labels that never change: selectors use them. Takes {root, role}. */}}
{{- define "tickwire.selector" -}}
app.kubernetes.io/name: tickwire
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{/* All labels of a resource. Takes {root, role}. */}}
{{- define "tickwire.labels" -}}
{{ include "tickwire.selector" . }}
app.kubernetes.io/version: {{ include "tickwire.version" .root | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The same, and labels of the operator, which replace them. Takes {root, role, more}. */}}
{{- define "tickwire.labelsAnd" -}}
{{- mergeOverwrite (include "tickwire.labels" . | fromYaml) (.more | default dict) | toYaml -}}
{{- end -}}

{{/* The tag of the image as the value of a label: without the digest that may follow it. */}}
{{- define "tickwire.version" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion | splitList "@" | first | trunc 63 -}}
{{- regexReplaceAll "^[^A-Za-z0-9]+|[^A-Za-z0-9]+$" (regexReplaceAll "[^A-Za-z0-9_.-]" $tag "_") "" -}}
{{- end -}}

{{/* A duration of the configuration, such as 1m15s, as whole seconds, rounded up. Nodes read further forms, such as 1.5m,
which are refused here. Takes {key, value}. */}}
{{- define "tickwire.seconds" -}}
{{- $milliseconds := 0 -}}
{{- if not (regexMatch "^([0-9]+(ms|s|m|h))+$" (toString .value)) -}}
{{- fail (printf "config.%s (%v): write it as whole numbers with ms, s, m or h, such as 1m30s: the time that Kubernetes gives a pod to stop is derived from it" .key .value) -}}
{{- end -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" (toString .value) -1 -}}
{{- $number := regexFind "^[0-9]+" . | atoi -}}
{{- $unit := get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) (regexFind "[a-z]+$" .) -}}
{{- $milliseconds = add $milliseconds (mul $number $unit) -}}
{{- end -}}
{{- div (add $milliseconds 999) 1000 -}}
{{- end -}}

{{/* A section as TOML. JSON writes texts, numbers, booleans and lists of these in the same way. All keys are bare: the
schema takes no names of operators, such as plans, that are not. */}}
{{- define "tickwire.toml.section" -}}
{{- $path := .path -}}
[{{ $path }}]
{{- range $key, $value := .section }}
{{- if not (kindIs "map" $value) }}
{{ $key }} = {{ mustToRawJson $value }}
{{- end }}
{{- end }}
{{ range $key, $value := .section }}
{{- if kindIs "map" $value }}
{{ include "tickwire.toml.section" (dict "path" (printf "%s.%s" $path $key) "section" $value) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* tickwire.toml: what `values.config` says, and what this chart decides. */}}
{{- define "tickwire.toml" -}}
{{- $config := deepCopy .Values.config -}}
{{- range $path := list "node.id" "node.ports_file" "gateway.listen" "admin.listen" -}}
{{- $parts := splitList "." $path -}}
{{- if hasKey (get $config (first $parts) | default dict) (last $parts) -}}
{{- fail (printf "config.%s: the chart sets this key itself; remove it" $path) -}}
{{- end -}}
{{- end -}}
{{- range $name, $section := $config -}}
{{- range $key, $value := $section -}}
{{- if and (kindIs "string" $value) (or (regexMatch "://[^/,]*@" $value) (and (eq $name "nats") (eq $key "url") (contains "@" $value))) -}}
{{- fail (printf "config.%s.%s: a ConfigMap is no place for the user and password in this address; remove them, and name a Secret in gateway.nats, router.nats or extraEnv" $name $key) -}}
{{- end -}}
{{- if or (and (regexMatch "(password|token|secret)(_file)?$" $key) (ne $key "require_token")) (and (eq $name "nats") (regexMatch "^(user|user_file|credentials|tls_.*)$" $key)) -}}
{{- fail (printf "config.%s.%s: a ConfigMap is no place for it; name a Secret in gateway.nats, router.nats, auth or extraEnv" $name $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $gateway := get $config "gateway" | default dict -}}
{{- if and .Values.ingress.enabled .Values.ingress.byName (not (get $gateway "connect_url")) -}}
{{- $scheme := ternary "wss" "ws" (ne .Values.ingress.tlsSecret "") -}}
{{- $gateway = set $gateway "connect_url" (printf "%s://%s/g/{gateway}/v1/stream" $scheme .Values.ingress.host) -}}
{{- end -}}
{{- $_ := set $config "gateway" (set $gateway "listen" (printf "%s:%v" .Values.gateway.address .Values.gateway.port)) -}}
{{- $_ := set $config "admin" (set (get $config "admin" | default dict) "listen" (printf "%s:%v" .Values.gateway.address .Values.adminPort)) -}}
# Rendered from values.config. `tickwire config reference` explains every key.
{{ range $name, $section := $config }}
{{ include "tickwire.toml.section" (dict "path" $name "section" $section) | trim }}
{{ end }}
{{- end -}}

{{/* How many gateways there can be. */}}
{{- define "tickwire.mostGateways" -}}
{{- $autoscaling := .Values.gateway.autoscaling -}}
{{- ternary $autoscaling.maxReplicas .Values.gateway.replicas $autoscaling.enabled | int -}}
{{- end -}}

{{/* The job of Prometheus: one for each cluster, since the alerts add up the nodes of a job. */}}
{{- define "tickwire.job" -}}
{{ .Release.Namespace }}/{{ include "tickwire.fullname" . }}
{{- end -}}

{{/* What an ingress controller has to know about WebSockets, as docs/balancers.md explains. nginx writes no access log: it
would have query strings, in which clients may send tokens. Takes {root, more}: ingress.annotations replace those of the
chart, and `more` replaces both. */}}
{{- define "tickwire.ingressAnnotations" -}}
{{- $ingress := .root.Values.ingress -}}
{{- $chosen := dict -}}
{{- if eq $ingress.controller "nginx" -}}
{{- $chosen = dict "nginx.ingress.kubernetes.io/proxy-connect-timeout" "2" "nginx.ingress.kubernetes.io/proxy-read-timeout" "60" "nginx.ingress.kubernetes.io/proxy-send-timeout" "60" "nginx.ingress.kubernetes.io/proxy-next-upstream" "error timeout http_503" "nginx.ingress.kubernetes.io/enable-access-log" "false" -}}
{{- else -}}
{{- $chosen = dict "haproxy-ingress.github.io/balance-algorithm" "leastconn" "haproxy-ingress.github.io/timeout-connect" "2s" "haproxy-ingress.github.io/timeout-server" "60s" "haproxy-ingress.github.io/timeout-tunnel" "60s" -}}
{{- if include "tickwire.proxyProtocol" .root -}}
{{- $_ := set $chosen "haproxy-ingress.github.io/proxy-protocol" "v2" -}}
{{- end -}}
{{- end -}}
{{- mergeOverwrite $chosen ($ingress.annotations | default dict) .more | toYaml -}}
{{- end -}}

{{/* Not empty if gateways take only connections with a PROXY header. */}}
{{- define "tickwire.proxyProtocol" -}}
{{- if eq (get (.Values.config.gateway | default dict) "proxy_protocol") "required" -}}
required
{{- end -}}
{{- end -}}

{{/* The class and the certificate of an Ingress. */}}
{{- define "tickwire.ingressHead" -}}
ingressClassName: {{ .Values.ingress.className | default .Values.ingress.controller | quote }}
{{- with .Values.ingress.tlsSecret }}
tls:
  - secretName: {{ . | quote }}
    {{- with $.Values.ingress.host }}
    hosts: [{{ . | quote }}]
    {{- end }}
{{- end }}
{{- end -}}

{{/* Names are looked up at the DNS of the cluster. */}}
{{- define "tickwire.dnsEgress" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end -}}
