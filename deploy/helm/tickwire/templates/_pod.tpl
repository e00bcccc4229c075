{{/* The time between the stop of a pod and its SIGKILL: the preStop hook, the grace of the node, and ten seconds. The
node itself needs up to five of these after its grace. Takes {root, role}. */}}
{{- define "tickwire.terminationGrace" -}}
{{- $node := .root.Values.config.node | default dict -}}
{{- $gateway := .root.Values.config.gateway | default dict -}}
{{- $grace := include "tickwire.seconds" (dict "key" "node.shutdown_grace" "value" ($node.shutdown_grace | default "10s")) | atoi -}}
{{- $window := include "tickwire.seconds" (dict "key" "gateway.drain_window" "value" ($gateway.drain_window | default "4s")) | atoi -}}
{{- if le $grace $window -}}
{{- fail (printf "config.node.shutdown_grace (%ds) must be longer than config.gateway.drain_window (%ds): the last sessions need some seconds to read their goodbye" $grace $window) -}}
{{- end -}}
{{- $sleep := ternary (int .root.Values.gateway.preStopSleep) 0 (eq .role "gateway") -}}
{{- add $sleep $grace 10 -}}
{{- end -}}

{{/* The variables of a node that the chart sets. Takes {root, role}. */}}
{{- define "tickwire.env" -}}
{{- $root := .root -}}
{{- $own := get .root.Values .role -}}
{{- $nats := $own.nats -}}
- name: TICKWIRE_NODE__ID
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- with $nats.user }}
- name: TICKWIRE_NATS__USER
  value: {{ . | quote }}
{{- end }}
{{- range $name, $key := dict "USER_FILE" $nats.userKey "PASSWORD_FILE" $nats.passwordKey "TOKEN_FILE" $nats.tokenKey "CREDENTIALS" $nats.credentialsKey }}
{{- if $key }}
- name: TICKWIRE_NATS__{{ $name }}
  value: {{ printf "/etc/tickwire/nats/%s" $key | quote }}
{{- end }}
{{- end }}
{{- if $nats.tls.secret }}
{{- range $name, $key := dict "CA" $nats.tls.caKey "CERT" $nats.tls.certKey "KEY" $nats.tls.keyKey }}
{{- if $key }}
- name: TICKWIRE_NATS__TLS_{{ $name }}
  value: {{ printf "/etc/tickwire/nats-tls/%s" $key | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if $root.Values.auth.secret }}
- name: TICKWIRE_AUTH__JWT_SECRET_FILE
  value: {{ printf "/etc/tickwire/auth/%s" $root.Values.auth.key | quote }}
{{- with $root.Values.auth.formerKey }}
- name: TICKWIRE_AUTH__JWT_FORMER_SECRET_FILE
  value: {{ printf "/etc/tickwire/auth/%s" . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Refuses variables that stand twice, and those of keys that the chart has to know for other fields, such as the ports of
a pod and its time to stop. Nodes read the key in capital and small letters. Takes {role, env, extra}. */}}
{{- define "tickwire.checkExtraEnv" -}}
{{- $instead := dict "TICKWIRE_NODE__ID" "a node has the name of its pod; remove it" "TICKWIRE_NODE__SHUTDOWN_GRACE" "set config.node.shutdown_grace instead" "TICKWIRE_GATEWAY__DRAIN_WINDOW" "set config.gateway.drain_window instead" "TICKWIRE_GATEWAY__MAX_SESSIONS" "set config.gateway.max_sessions instead" "TICKWIRE_GATEWAY__LISTEN" "set gateway.address and gateway.port instead" "TICKWIRE_GATEWAY__PROXY_PROTOCOL" "set config.gateway.proxy_protocol instead" "TICKWIRE_ADMIN__LISTEN" "set gateway.address and adminPort instead" -}}
{{- $known := list -}}
{{- range .env -}}
{{- $known = append $known .name -}}
{{- end -}}
{{- range .extra -}}
{{- $name := ternary (upper .name) .name (hasPrefix "TICKWIRE_" .name) -}}
{{- if hasKey $instead $name -}}
{{- fail (printf "%s.extraEnv.%s: %s" $.role .name (get $instead $name)) -}}
{{- end -}}
{{- if has $name $known -}}
{{- fail (printf "%s.extraEnv.%s: this variable stands twice, or a value of the chart sets it already; remove one" $.role .name) -}}
{{- end -}}
{{- $known = append $known $name -}}
{{- end -}}
{{- end -}}

{{/* Refuses a login at NATS that is incomplete or stands twice: the node would not start. Takes {role, nats}. */}}
{{- define "tickwire.checkLogin" -}}
{{- if gt (len (compact (list .nats.passwordKey .nats.tokenKey .nats.credentialsKey))) 1 -}}
{{- fail (printf "%s.nats: name one of passwordKey, tokenKey and credentialsKey" .role) -}}
{{- end -}}
{{- if and .nats.passwordKey (not .nats.user) (not .nats.userKey) -}}
{{- fail (printf "%s.nats.passwordKey: set user or userKey too" .role) -}}
{{- end -}}
{{- if and .nats.user .nats.userKey -}}
{{- fail (printf "%s.nats: name one of user and userKey" .role) -}}
{{- end -}}
{{- if and (or .nats.user .nats.userKey) (or .nats.tokenKey .nats.credentialsKey) -}}
{{- fail (printf "%s.nats: user and userKey belong to passwordKey; remove them, or tokenKey and credentialsKey" .role) -}}
{{- end -}}
{{- if ne (empty .nats.tls.certKey) (empty .nats.tls.keyKey) -}}
{{- fail (printf "%s.nats.tls: certKey and keyKey belong together; set both" .role) -}}
{{- end -}}
{{- if and (not .nats.tls.secret) .nats.tls.certKey -}}
{{- fail (printf "%s.nats.tls.secret: name the Secret that has certKey and keyKey" .role) -}}
{{- end -}}
{{- if and (not .nats.secret) (compact (list .nats.userKey .nats.passwordKey .nats.tokenKey .nats.credentialsKey)) -}}
{{- fail (printf "%s.nats.secret: name the Secret that has the keys" .role) -}}
{{- end -}}
{{- end -}}

{{/* The part of a pod that both roles share. Takes {root, role}. */}}
{{- define "tickwire.pod" -}}
{{- $root := .root -}}
{{- if eq (int $root.Values.adminPort) (int $root.Values.gateway.port) -}}
{{- fail (printf "adminPort: a gateway listens for clients at %v already; set another port" $root.Values.adminPort) -}}
{{- end -}}
{{- $own := get .root.Values .role -}}
{{- $nats := $own.nats -}}
{{- include "tickwire.checkLogin" (dict "role" .role "nats" $nats) -}}
{{- range $key, $_ := include "tickwire.selector" . | fromYaml -}}
{{- if hasKey ($own.podLabels | default dict) $key -}}
{{- fail (printf "%s.podLabels: the chart sets %s itself; remove it" $.role $key) -}}
{{- end -}}
{{- end -}}
{{- $env := include "tickwire.env" . -}}
{{- include "tickwire.checkExtraEnv" (dict "role" .role "env" ($env | fromYamlArray) "extra" $own.extraEnv) -}}
metadata:
  labels:
    {{- include "tickwire.selector" . | nindent 4 }}
    {{- with $own.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # A node reads its configuration at its start only.
    {{- merge (dict "checksum/config" (include "tickwire.toml" $root | sha256sum)) ($own.podAnnotations | default dict) | toYaml | nindent 4 }}
spec:
  serviceAccountName: {{ include "tickwire.fullname" $root }}
  # Nodes never speak to Kubernetes.
  automountServiceAccountToken: false
  # Kubernetes would add TICKWIRE_… variables for the Services of this chart, which are no configuration.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "tickwire.terminationGrace" . }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  {{- with $own.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- $selector := . }}
    {{- range $topology := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ $topology }}
      whenUnsatisfiable: {{ $own.spread }}
      labelSelector:
        matchLabels:
          {{- include "tickwire.selector" $selector | nindent 10 }}
    {{- end }}
  containers:
    - name: {{ .role }}
      image: {{ printf "%s:%s" $root.Values.image.repository ($root.Values.image.tag | default $root.Chart.AppVersion) | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ .role }}, --config, /etc/tickwire/tickwire.toml]
      env:
        {{- $env | nindent 8 }}
        {{- with $own.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- if eq .role "gateway" }}
        - name: clients
          containerPort: {{ $root.Values.gateway.port }}
        {{- end }}
        - name: admin
          containerPort: {{ $root.Values.adminPort }}
      # A node that waits for NATS answers /livez from the start.
      startupProbe:
        httpGet:
          path: /livez
          port: admin
        periodSeconds: 1
        failureThreshold: 60
      # Never /readyz: a gateway that is not ready still serves the clients that it has.
      livenessProbe:
        httpGet:
          path: /livez
          port: admin
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet:
          path: /readyz
          port: admin
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      {{- if and (eq .role "gateway") (gt (int $own.preStopSleep) 0) }}
      # The kubelet sleeps, not the container, which has no shell. New clients stop coming before the drain begins.
      lifecycle:
        preStop:
          sleep:
            seconds: {{ $own.preStopSleep }}
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      resources:
        {{- toYaml $own.resources | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/tickwire/tickwire.toml
          subPath: tickwire.toml
          readOnly: true
        {{- if $nats.secret }}
        - name: nats
          mountPath: /etc/tickwire/nats
          readOnly: true
        {{- end }}
        {{- if $nats.tls.secret }}
        - name: nats-tls
          mountPath: /etc/tickwire/nats-tls
          readOnly: true
        {{- end }}
        {{- if $root.Values.auth.secret }}
        - name: auth
          mountPath: /etc/tickwire/auth
          readOnly: true
        {{- end }}
        {{- with $own.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "tickwire.fullname" $root }}
    {{- if $nats.secret }}
    - name: nats
      secret:
        secretName: {{ $nats.secret | quote }}
        defaultMode: 0440
    {{- end }}
    {{- if $nats.tls.secret }}
    - name: nats-tls
      secret:
        secretName: {{ $nats.tls.secret | quote }}
        defaultMode: 0440
    {{- end }}
    {{- if $root.Values.auth.secret }}
    - name: auth
      secret:
        secretName: {{ $root.Values.auth.secret | quote }}
        items:
          - key: {{ $root.Values.auth.key | quote }}
            path: {{ $root.Values.auth.key | quote }}
          {{- with $root.Values.auth.formerKey }}
          - key: {{ . | quote }}
            path: {{ . | quote }}
          {{- end }}
        defaultMode: 0440
    {{- end }}
    {{- with $own.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
