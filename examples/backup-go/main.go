// The how-to's database backup on the Dapr SDK for Go: schedules prod-db-backup and receives each trigger, both over gRPC.
//
// Environment: APP_PORT, DAPR_GRPC_PORT (given by whoever starts us), BACKUP_REPEATS (default 10).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprd "github.com/dapr/go-sdk/service/grpc"
	"google.golang.org/protobuf/types/known/anypb"
)

const jobName = "prod-db-backup"

type backup struct {
	DB            string `json:"db"`
	RetentionDays int    `json:"retention_days"`
}

func main() {
	repeats := uint32(10)
	if text := os.Getenv("BACKUP_REPEATS"); text != "" {
		number, err := strconv.ParseUint(text, 10, 32)
		must(err)
		repeats = uint32(number)
	}
	port := os.Getenv("APP_PORT")
	if port == "" {
		port = "6002"
	}

	service, err := daprd.NewService("127.0.0.1:" + port)
	must(err)
	due := make(chan backup, repeats)
	// Returning nil takes the trigger; an error has it come again.
	must(service.AddJobEventHandler(jobName, func(_ context.Context, event *common.JobEvent) error {
		var task backup
		if err := json.Unmarshal(event.Data, &task); err != nil {
			return err
		}
		due <- task
		return nil
	}))
	go func() { must(service.Start()) }()

	dapr, err := client.NewClient()
	must(err)
	ctx := context.Background()
	task, err := json.Marshal(backup{DB: "my-prod-db", RetentionDays: 7})
	must(err)
	// This version of the SDK cannot overwrite a job.
	must(dapr.DeleteJobAlpha1(ctx, jobName))
	must(dapr.ScheduleJobAlpha1(ctx, &client.Job{Name: jobName, Schedule: "@every 1s", Repeats: repeats, Data: &anypb.Any{Value: task}}))
	fmt.Printf("scheduled %s (@every 1s, %d times)\n", jobName, repeats)

	for number := uint32(1); number <= repeats; number++ {
		select {
		case task := <-due:
			fmt.Printf("trigger %2d/%d  %s  data %+v\n", number, repeats, jobName, task)
		case <-time.After(time.Minute):
			log.Fatalf("only %d of %d triggers arrived", number-1, repeats)
		}
	}
	must(service.GracefulStop())
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
