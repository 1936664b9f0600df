// A client of the scheduler on grpc-go. See tests/interop/scheduler_client.py for what it says and when.
//
//	strangers ADDRESS APP_ID [CA CERTIFICATE KEY]
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	pb "strangers/schedulerpb"
)

var speaking sync.Mutex

func say(line map[string]any) {
	text, err := json.Marshal(line)
	must(err)
	speaking.Lock()
	defer speaking.Unlock()
	os.Stdout.Write(append(text, '\n'))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func security(arguments []string) credentials.TransportCredentials {
	if len(arguments) == 0 {
		return insecure.NewCredentials()
	}
	authority, err := os.ReadFile(arguments[0])
	must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	own, err := tls.LoadX509KeyPair(arguments[1], arguments[2])
	must(err)
	return credentials.NewTLS(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}})
}

// watch takes and acknowledges every trigger, on a new stream whenever one breaks.
func watch(client pb.SchedulerClient, appID string) {
	for ; ; time.Sleep(100 * time.Millisecond) {
		stream, err := client.WatchJobs(context.Background(), grpc.WaitForReady(true))
		if err != nil {
			continue
		}
		initial := &pb.WatchJobsRequestInitial{AppId: appID, Namespace: "default"}
		stream.Send(&pb.WatchJobsRequest{WatchJobRequestType: &pb.WatchJobsRequest_Initial{Initial: initial}})
		if _, err = stream.Header(); err == nil {
			say(map[string]any{"watching": true})
		}
		for err == nil {
			var trigger *pb.WatchJobsResponse
			if trigger, err = stream.Recv(); err == nil {
				say(map[string]any{"trigger": trigger.GetName(), "index": trigger.GetOccurrence().GetIndex(), "data": trigger.GetData().GetValue()})
				result := &pb.WatchJobsRequestResult{Id: trigger.GetId(), Status: pb.WatchJobsRequestResultStatus_SUCCESS}
				stream.Send(&pb.WatchJobsRequest{WatchJobRequestType: &pb.WatchJobsRequest_Result{Result: result}})
			}
		}
		say(map[string]any{"broken": status.Code(err).String()})
	}
}

func main() {
	address, appID := os.Args[1], os.Args[2]
	quick := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: 300 * time.Millisecond}, MinConnectTimeout: time.Second}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(security(os.Args[3:])), grpc.WithConnectParams(quick))
	must(err)
	client := pb.NewSchedulerClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()

	hosts, err := client.WatchHosts(ctx, &pb.WatchHostsRequest{})
	must(err)
	first, err := hosts.Recv()
	must(err)
	say(map[string]any{"hosts": len(first.GetHosts())})

	go watch(client, appID)
	metadata := &pb.JobMetadata{AppId: appID, Namespace: "default", Target: &pb.JobTargetMetadata{Type: &pb.JobTargetMetadata_Job{Job: &pb.TargetJob{}}}}
	schedule, data := "@every 250ms", &anypb.Any{Value: []byte{0, 1, 254, 255}}
	request := &pb.ScheduleJobRequest{Name: "tick", Job: &pb.Job{Schedule: &schedule, Data: data}, Metadata: metadata}
	_, err = client.ScheduleJob(ctx, request)
	must(err)
	_, err = client.ScheduleJob(ctx, request)
	say(map[string]any{"again": status.Code(err).String()})
	got, err := client.GetJob(ctx, &pb.GetJobRequest{Name: "tick", Metadata: metadata})
	must(err)
	listed, err := client.ListJobs(ctx, &pb.ListJobsRequest{Metadata: metadata})
	must(err)
	names := []string{}
	for _, job := range listed.GetJobs() {
		names = append(names, job.GetName())
	}
	say(map[string]any{"got": got.GetJob().GetSchedule(), "listed": names})

	bufio.NewScanner(os.Stdin).Scan()
	_, err = client.DeleteJob(ctx, &pb.DeleteJobRequest{Name: "tick", Metadata: metadata}, grpc.WaitForReady(true))
	must(err)
	_, err = client.GetJob(ctx, &pb.GetJobRequest{Name: "tick", Metadata: metadata})
	if status.Code(err) != codes.NotFound {
		log.Fatalf("after deletion: %v", err)
	}
	say(map[string]any{"deleted": true})
}
