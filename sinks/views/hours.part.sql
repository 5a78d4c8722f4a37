-- what ends in the hour after the span, of an hour at most, may begin in it
                        (key_hour = 0 OR key_hour >= intDiv(since_ns, 3600000000000) AND key_hour <= intDiv(until_ns, 3600000000000) + 1)
