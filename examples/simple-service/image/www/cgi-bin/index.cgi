#!/bin/sh
# Says which instance answers; KAT sets the KAT_ variables in every container.
printf 'Content-Type: text/plain\r\nCache-Control: no-store\r\n\r\n'
printf 'Hello from instance %s\n' "${KAT_INSTANCE:-$(/bin/busybox hostname)}"
printf 'workload %s, namespace %s, node %s\n' "${KAT_WORKLOAD:-unknown}" "${KAT_NAMESPACE:-unknown}" "${KAT_NODE:-unknown}"
