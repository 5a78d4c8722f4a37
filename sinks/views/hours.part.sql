-- a count that ends in the hour after the span may begin in the span: its period is an hour at most
                        (key_hour = 0 OR key_hour >= intDiv(since_ns, 3600000000000) AND key_hour <= intDiv(until_ns, 3600000000000) + 1)
