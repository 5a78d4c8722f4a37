multiIf(pod = '', 'process', match(pod, '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'), 'uid', 'pod')
